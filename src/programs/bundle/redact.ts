/** Takes out of a text what nobody else may know. */

export interface Redacted {
  readonly text: string
  /** How many things were taken out. */
  readonly count: number
}

const REMOVED = "[removed]"
/** What is shorter is no token, and may be part of any word. */
const MIN_LENGTH = 8

const NAMES =
  "(?:token|password|passwd|passphrase|secret|psk|(?:preshared|private|api)[_-]?key|(?<!load|import)credentials?|authorization"
  + "|cookie|OTLP_(?:METRICS_)?HEADERS)"

/**
 * A name that says that a secret follows, and the secret; `TOKEN_PATH=` is none, nor `LoadCredential=`, which says from which
 * file systemd takes it. Headers have names of their makers' own, so all of them go.
 */
const NAMED: ReadonlyArray<RegExp> = [
  // In quotes as a whole, as systemd shows variables with spaces: all up to the last quote.
  new RegExp(`("[\\w-]*${NAMES}=)([^"\\\\\\r\\n]+)`, "gi"),
  /(OTLP_(?:METRICS_)?HEADERS\s*=\s*)([^\s"'\\]+)/gi,
  // Assignments and members of JSON, also inside a text of JSON: all between the quotes.
  new RegExp(`(${NAMES}\\\\?["']?\\s*[:=]\\s*\\\\?["'])([^"'\\\\]+)`, "gi"),
  new RegExp(`(${NAMES}\\s*=\\s*)([^\\s"'\\\\&,;}{]+)`, "gi"),
  // Headers.
  /((?:authorization|cookie)\s*:\s*)([^\r\n"]+)/gi,
  // Prose says what is wrong with a token; a secret has no word's form.
  new RegExp(`(${NAMES}\\s*:\\s+)((?=\\S{0,200}\\d)[^\\s"'\\\\&,;}{]{8,})`, "gi")
]

/** They begin where a word does: else a long one would be looked through from each of its characters. */
const ANYWHERE: ReadonlyArray<RegExp> = [
  // Tokens of the portal: signed by Phoenix, with something in front.
  /(?<![\w.-])[\w.-]*SFMyNTY\.[\w.-]+/g,
  // JSON web tokens.
  /(?<![\w-])eyJ[\w-]{8,}\.[\w-]+\.[\w-]*/g,
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
  for (const pattern of ANYWHERE) result = result.replaceAll(pattern, (all) => all === REMOVED ? all : remove())
  for (const pattern of NAMED) {
    result = result.replaceAll(
      pattern,
      (all: string, name: string, value: string) => value.startsWith(REMOVED) ? all : name + remove()
    )
  }
  return { text: result, count }
}
