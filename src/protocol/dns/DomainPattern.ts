/**
 * Domain patterns of DNS resources and device pools (tunnel spec 12.5): `?` is one character of a label, `*` any run
 * within a label, `**` as a whole label any number of labels. Names and patterns are text without the trailing dot.
 */

/** Longer than any name that a query can carry (RFC 1035 section 2.3.4). */
const MAX_LENGTH = 255

export interface DomainPattern {
  /** As the portal sent it. */
  readonly text: string
  /** Whether the whole of `name` matches, whatever its case. */
  readonly matches: (name: string) => boolean
}

/**
 * Matches a sequence against a pattern with stars, remembering only the latest star: never worse than the product of the
 * lengths, whatever the portal sends.
 */
const matchStars = (
  length: number,
  patternLength: number,
  isStar: (index: number) => boolean,
  matchesOne: (index: number, patternIndex: number) => boolean
): boolean => {
  let at = 0
  let pattern = 0
  let star = -1
  let retryFrom = 0
  while (at < length) {
    if (pattern < patternLength && isStar(pattern)) {
      star = pattern++
      retryFrom = at
    } else if (pattern < patternLength && matchesOne(at, pattern)) {
      at += 1
      pattern += 1
    } else if (star >= 0) {
      pattern = star + 1
      at = ++retryFrom
    } else {
      return false
    }
  }
  while (pattern < patternLength && isStar(pattern)) pattern += 1
  return pattern === patternLength
}

const matchLabel = (label: string, pattern: string): boolean =>
  matchStars(
    label.length,
    pattern.length,
    (index) => pattern[index] === "*",
    (index, at) => pattern[at] === "?" || pattern[at] === label[index]
  )

const matchLabels = (labels: ReadonlyArray<string>, pattern: ReadonlyArray<string>): boolean => {
  // A trailing `**` stands for one label or more.
  const needsOne = pattern[pattern.length - 1] === "**"
  const head = needsOne ? pattern.slice(0, -1) : pattern
  const match = (labels: ReadonlyArray<string>, pattern: ReadonlyArray<string>): boolean =>
    matchStars(
      labels.length,
      pattern.length,
      (index) => pattern[index] === "**",
      (index, at) => matchLabel(labels[index] ?? "", pattern[at] ?? "")
    )
  return needsOne ? labels.length > 0 && match(labels.slice(0, -1), [...head, "**"]) : match(labels, pattern)
}

/**
 * Parses a pattern; `undefined` if it is none (`**` beside other characters, three stars, empty, too long). A pattern
 * `*.x` also matches `x`.
 */
export const parseDomainPattern = (text: string): DomainPattern | undefined => {
  if (text === "" || text.length > MAX_LENGTH || /[[\]{}/\s]/.test(text)) return undefined
  const labels = text.toLowerCase().split(".")
  if (labels.some((label) => label.includes("**") && label !== "**")) return undefined
  const parent = labels[0] === "*" && labels.length > 1 ? labels.slice(1) : undefined
  return {
    text,
    matches: (name) => {
      if (name === "" || name.length > MAX_LENGTH) return false
      const candidate = name.toLowerCase().split(".")
      return matchLabels(candidate, labels) || (parent !== undefined && matchLabels(candidate, parent))
    }
  }
}

const isWildcard = (character: string): boolean => character === "*" || character === "?"

/**
 * Orders patterns, the more specific first (tunnel spec 12.5): from the right, character by character, at the first
 * difference.
 */
export const compareSpecificity = (left: string, right: string): number => {
  for (let i = 1;; i++) {
    const a = left[left.length - i]
    const b = right[right.length - i]
    if (a === undefined && b === undefined) return 0
    if (a === b) continue
    if (a !== undefined && b !== undefined && isWildcard(a) && isWildcard(b)) return a === "?" ? -1 : 1
    if (a !== undefined && isWildcard(a)) return 1
    if (b !== undefined && isWildcard(b)) return -1
    if (a === undefined) return -1
    if (b === undefined) return 1
    return a > b ? -1 : 1
  }
}
