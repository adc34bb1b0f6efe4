/** What an HTTP answer other than 101 means (portal spec section 2.5, RFC 9457). */
export type Refusal =
  /** The token must be discarded. */
  | { readonly _tag: "TokenRejected"; readonly detail: string }
  /** Fatal, but the token may be good. */
  | { readonly _tag: "AuthenticationFailed"; readonly detail: string }
  /** Tried again; after `retryAfterMillis` if the portal said so. */
  | {
    readonly _tag: "Retry"
    readonly status: number
    readonly detail: string
    readonly retryAfterMillis?: number | undefined
  }

export interface HttpRefusal {
  readonly status: number
  readonly contentType: string | undefined
  readonly retryAfter: string | undefined
  readonly body: string
}

const DETAIL_LIMIT = 200

const problemOf = (response: HttpRefusal): { readonly detail?: string; readonly code?: string } => {
  const mediaType = response.contentType?.split(";")[0]?.trim().toLowerCase()
  if (mediaType !== "application/problem+json") return {}
  try {
    const body: unknown = JSON.parse(response.body)
    if (typeof body !== "object" || body === null) return {}
    const { detail, title, code } = body as { readonly [member: string]: unknown }
    const text = typeof detail === "string" && detail !== "" ? detail : title
    return {
      ...(typeof text === "string" && text !== "" ? { detail: printable(text) } : {}),
      ...(typeof code === "string" ? { code } : {})
    }
  } catch {
    return {}
  }
}

/** It ends up in logs and on terminals. */
const printable = (text: string): string => text.replaceAll(/[\x00-\x1f\x7f-\x9f]/g, " ").slice(0, DETAIL_LIMIT)

/** `unixMillis` is the wall clock, for dates in `Retry-After`. */
export const classifyRefusal = (response: HttpRefusal, unixMillis: number): Refusal => {
  const problem = problemOf(response)
  if (response.status === 401) {
    const detail = problem.detail ?? "no reason provided"
    return problem.code === "invalid_token" || problem.code === "missing_token"
      ? { _tag: "TokenRejected", detail }
      : { _tag: "AuthenticationFailed", detail }
  }
  const code = problem.code === undefined ? "" : ` (${printable(problem.code)})`
  return {
    _tag: "Retry",
    status: response.status,
    detail: `the portal answered with HTTP status ${response.status}${
      problem.detail === undefined ? "" : `: ${problem.detail}`
    }${code}`,
    retryAfterMillis: response.retryAfter === undefined ? undefined : parseRetryAfter(response.retryAfter, unixMillis)
  }
}

/** Non-negative integer seconds or an HTTP date (RFC 9110 section 10.2.3); a past date is 0. Anything else: `undefined`. */
export const parseRetryAfter = (value: string, unixMillis: number): number | undefined => {
  const text = value.trim()
  if (/^\d{1,15}$/.test(text)) return Number(text) * 1000
  const date = parseHttpDate(text)
  return date === undefined ? undefined : Math.max(0, date - unixMillis)
}

const months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
const imf = /^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (\d{2}) ([A-Z][a-z]{2}) (\d{4}) (\d{2}):(\d{2}):(\d{2}) GMT$/
const asctime = /^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) ([A-Z][a-z]{2}) ([ \d]\d) (\d{2}):(\d{2}):(\d{2}) (\d{4})$/

/** Unix milliseconds of an IMF-fixdate or asctime date (RFC 9110 section 5.6.7). */
const parseHttpDate = (text: string): number | undefined => {
  const a = imf.exec(text)
  if (a !== null) return unixMillisOf(a[3], a[2], a[1], a[4], a[5], a[6])
  const b = asctime.exec(text)
  return b === null ? undefined : unixMillisOf(b[6], b[1], b[2], b[3], b[4], b[5])
}

const unixMillisOf = (
  yearText = "",
  monthText = "",
  dayText = "",
  hour = "",
  minute = "",
  second = ""
): number | undefined => {
  const month = months.indexOf(monthText) + 1
  const day = Number(dayText)
  if (month === 0 || day < 1 || day > 31 || Number(hour) > 23 || Number(minute) > 59 || Number(second) > 60) {
    return undefined
  }
  // Days since 1970-01-01 in the Gregorian calendar, with years that begin in March.
  const year = Number(yearText) - (month <= 2 ? 1 : 0)
  const era = Math.floor(year / 400)
  const yearOfEra = year - era * 400
  const dayOfYear = Math.floor((153 * (month + (month > 2 ? -3 : 9)) + 2) / 5) + day - 1
  const dayOfEra = yearOfEra * 365 + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100) + dayOfYear
  const days = era * 146_097 + dayOfEra - 719_468
  return ((days * 24 + Number(hour)) * 60 + Number(minute)) * 60_000 + Number(second) * 1000
}
