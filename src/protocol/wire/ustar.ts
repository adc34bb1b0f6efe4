/** Archives of regular files that every `tar` reads (POSIX ustar, pax(1)). */

const BLOCK = 512
const NAME_LENGTH = 100
/** Eleven octal digits. */
const MAX_NUMBER = 0o77777777777

export interface TarFile {
  /** Relative, with `/` between folders; at most 100 bytes of ASCII. */
  readonly name: string
  readonly bytes: Uint8Array
}

const octal = (value: number, digits: number): string => value.toString(8).padStart(digits, "0")

const isName = (name: string): boolean =>
  name.length <= NAME_LENGTH && /^[!-~]+$/.test(name) && !name.startsWith("/") &&
  name.split("/").every((part) => part !== "" && part !== "." && part !== "..")

const header = (name: string, size: number, modifiedSeconds: number): Uint8Array => {
  const bytes = new Uint8Array(BLOCK)
  const put = (offset: number, text: string): void => {
    for (let i = 0; i < text.length; i++) bytes[offset + i] = text.charCodeAt(i)
  }
  put(0, name)
  put(100, octal(0o600, 7))
  put(108, octal(0, 7)) // owner and group: root
  put(116, octal(0, 7))
  put(124, octal(size, 11))
  put(136, octal(modifiedSeconds, 11))
  put(148, " ".repeat(8)) // the sum is over the header with spaces in its place
  put(156, "0")
  put(257, "ustar\x0000")
  put(265, "root")
  put(297, "root")
  const sum = bytes.reduce((sum, byte) => sum + byte, 0)
  put(148, `${octal(sum, 6)}\0 `)
  return bytes
}

/** The whole archive, each file with mode 0600 and the same time. Throws a `RangeError` for a name or size that has no form. */
export const encodeTar = (files: ReadonlyArray<TarFile>, modifiedSeconds: number): Uint8Array => {
  const length = files.reduce((sum, { bytes }) => sum + BLOCK + Math.ceil(bytes.length / BLOCK) * BLOCK, 2 * BLOCK)
  const archive = new Uint8Array(length)
  let at = 0
  for (const { bytes, name } of files) {
    if (!isName(name) || bytes.length > MAX_NUMBER) throw new RangeError(`not for a tar: ${name}`)
    archive.set(header(name, bytes.length, modifiedSeconds), at)
    archive.set(bytes, at + BLOCK)
    at += BLOCK + Math.ceil(bytes.length / BLOCK) * BLOCK
  }
  return archive
}
