/** Takes out of a text what nobody else may know. */

export interface Redacted {
  readonly text: string
  /** How many things were taken out. */
  readonly count: number
}

const REMOVED = "[removed]"
/** What is shorter is no token, and may be part of any word. */
const MIN_LENGTH = 8

/** A name that says that a secret follows, and the secret; `TOKEN_PATH=` is none. */
const NAMED =
  /((?:token|password|passwd|passphrase|secret|psk|preshared[_-]?key|private[_-]?key|authorization|cookie|credentials?|api[_-]?key)\\?["']?\s*[:=]\s*\\?["']?(?:(?:bearer|basic)\s+)?)(?!\[removed\])([^\s"'\\&,;}{]+)/gi

const ANYWHERE: ReadonlyArray<RegExp> = [
  // Tokens of the portal: signed by Phoenix, with something in front.
  /[\w.-]*SFMyNTY\.[\w.-]+/g,
  // JSON web tokens.
  /eyJ[\w-]{8,}\.[\w-]+\.[\w-]*/g,
  // Keys of WireGuard: 32 bytes in base64, public ones too.
  /(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{42}[AEIMQUYcgkosw480]=(?!=)/g,
  /\bbearer\s+[\w.~+/-]{8,}=*/gi,
  // Of a URL, between `//` and `@`.
  /(?<=:\/\/)[^\s/@"']+(?=@)/g,
  // Nothing readable is that long without a break.
  /[\w-]{120,}/g,
  /[A-Za-z0-9+/]{160,}/g
]

/** `secrets` are known ones; then goes what looks like one. */
export const redact = (text: string, secrets: ReadonlyArray<string>): Redacted => {
  let count = 0
  const remove = (): string => {
    count += 1
    return REMOVED
  }
  let result = text
  for (const secret of secrets.filter(({ length }) => length >= MIN_LENGTH)) {
    for (const form of new Set([secret, encodeURIComponent(secret), JSON.stringify(secret).slice(1, -1)])) {
      result = result.replaceAll(form, remove)
    }
  }
  for (const pattern of ANYWHERE) result = result.replaceAll(pattern, remove)
  result = result.replaceAll(NAMED, (_, name: string) => name + remove())
  return { text: result, count }
}
