import * as fs from "node:fs"
import * as path from "node:path"

/** Whether it was made; what is there already must be a folder. */
const makeOne = (folder: string, mode: number): boolean => {
  try {
    fs.mkdirSync(folder, mode)
    return true
  } catch (cause) {
    const isThere = (cause as NodeJS.ErrnoException).code === "EEXIST" && fs.statSync(folder).isDirectory()
    if (isThere) return false
    throw cause
  }
}

/**
 * Makes a folder with its parents and returns whether it was missing. Not `mkdirSync` with `recursive`, which never ends in
 * Node 20 where the system answers ENOENT for a parent that exists, as below /proc.
 */
export const makeFolder = (folder: string, mode: number): boolean => {
  const target = path.resolve(folder)
  const parents: Array<string> = []
  for (let at = path.dirname(target); !fs.existsSync(at) && at !== path.dirname(at); at = path.dirname(at)) {
    parents.unshift(at)
  }
  for (const parent of parents) makeOne(parent, mode)
  return makeOne(target, mode)
}
