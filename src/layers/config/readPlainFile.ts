import * as fs from "node:fs"

const { O_NOFOLLOW = 0, O_NONBLOCK = 0, O_RDONLY } = fs.constants // the first two are not on Windows
const codeOf = (cause: unknown): string | undefined => (cause as NodeJS.ErrnoException).code

/**
 * Reads a file of a folder into which the GUI's group may write. Waits for no other end of a pipe, and gives the mode to no
 * file that a link leads to. Throws as `fs` does, or if it is no file or longer than `maxBytes`.
 */
export const readPlainFile = (file: string, maxBytes: number, mode?: number): string => {
  let isLink = false
  let descriptor: number
  try {
    descriptor = fs.openSync(file, O_RDONLY | O_NONBLOCK | O_NOFOLLOW)
  } catch (cause) {
    if (codeOf(cause) !== "ELOOP") throw cause
    isLink = true
    descriptor = fs.openSync(file, O_RDONLY | O_NONBLOCK)
  }
  try {
    const stat = fs.fstatSync(descriptor)
    if (!stat.isFile()) throw new Error("it is no file")
    if (stat.size > maxBytes) throw new Error(`the file has ${stat.size} bytes`)
    const text = fs.readFileSync(descriptor, "utf8")
    if (mode !== undefined && !isLink && process.platform !== "win32") fs.fchmodSync(descriptor, mode)
    return text
  } finally {
    fs.closeSync(descriptor)
  }
}
