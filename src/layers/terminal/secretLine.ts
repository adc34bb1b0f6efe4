/** What a person types in raw mode, where the terminal neither shows nor edits it. */

/** A service-account token is well below this. */
const MAX_LENGTH = 64 * 1024

export type Typed =
  | { readonly _tag: "More"; readonly text: string }
  | { readonly _tag: "Done"; readonly text: string }
  | { readonly _tag: "GaveUp" }

/** `text` after the keys in `input`, as termios(3) edits a line: erase, kill, end of file, interrupt. */
export const typed = (text: string, input: string): Typed => {
  for (const key of input) {
    switch (key) {
      case "\r":
      case "\n":
        return { _tag: "Done", text }
      case "\x03":
        return { _tag: "GaveUp" }
      case "\x04":
        return text === "" ? { _tag: "GaveUp" } : { _tag: "Done", text }
      case "\x7f":
      case "\b":
        text = text.slice(0, -1)
        break
      case "\x15":
        text = ""
        break
      default:
        if (text.length < MAX_LENGTH) text += key
    }
  }
  return { _tag: "More", text }
}
