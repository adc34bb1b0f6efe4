import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { classifyRefusal, parseRetryAfter } from "../../../src/protocol/portal/refusal.ts"

const NOW = Date.UTC(2026, 7, 1, 12, 0, 0)
const problem = (status: number, body: unknown, contentType = "application/problem+json; charset=utf-8") =>
  classifyRefusal({ status, contentType, retryAfter: undefined, body: JSON.stringify(body) }, NOW)

describe("HTTP refusals (portal spec 2.5, test 4)", () => {
  it("discards the token only for its two codes", () => {
    for (const code of ["invalid_token", "missing_token"]) {
      expect(problem(401, { detail: "Invalid token", code })).toEqual({
        _tag: "TokenRejected",
        detail: "Invalid token"
      })
    }
    expect(problem(401, { detail: "Odd", code: "other" })).toEqual({ _tag: "AuthenticationFailed", detail: "Odd" })
    expect(problem(401, { detail: "Old portal" })).toEqual({ _tag: "AuthenticationFailed", detail: "Old portal" })
    expect(problem(401, {})).toEqual({ _tag: "AuthenticationFailed", detail: "no reason provided" })
    expect(problem(401, { code: "invalid_token" }, "application/json"))
      .toEqual({ _tag: "AuthenticationFailed", detail: "no reason provided" })
    expect(problem(401, { code: "invalid_token", detail: "x" }, "Application/Problem+JSON")._tag).toBe("TokenRejected")
    expect(
      classifyRefusal({ status: 401, contentType: "text/html", retryAfter: undefined, body: "<html>" }, NOW)
    ).toEqual({ _tag: "AuthenticationFailed", detail: "no reason provided" })
  })
  it("retries everything else and says why", () => {
    for (const status of [200, 301, 302, 400, 402, 403, 404, 408, 409, 418, 429, 500, 502, 503]) {
      expect(classifyRefusal({ status, contentType: undefined, retryAfter: undefined, body: "" }, NOW)).toMatchObject({
        _tag: "Retry",
        status
      })
    }
    expect(problem(409, { detail: "A session exists", code: "gateway_already_connected" })).toMatchObject({
      detail: "the portal answered with HTTP status 409: A session exists (gateway_already_connected)"
    })
  })
  it("reads Retry-After: seconds, dates, garbage", () => {
    const read = (text: string) => parseRetryAfter(text, NOW)
    expect(read("1")).toBe(1000)
    expect(read("0")).toBe(0)
    expect(read("Sat, 01 Aug 2026 12:00:30 GMT")).toBe(30_000)
    expect(read("Sat Aug  1 12:00:30 2026")).toBe(30_000)
    expect(read("Thu, 01 Jan 1970 00:00:00 GMT")).toBe(0)
    for (const text of ["", "-1", "1.5", "soon", "1e3", "Sat, 41 Aug 2026 12:00:30 GMT", "2026-08-01T12:00:30Z"]) {
      expect(read(text)).toBeUndefined()
    }
  })
  it("agrees with the platform on every date", () => {
    fc.assert(fc.property(fc.integer({ min: 0, max: 253_402_300_799 }), (seconds) => {
      expect(parseRetryAfter(new Date(seconds * 1000).toUTCString(), 0)).toBe(seconds * 1000)
    }))
  })
  it("returns for any input, without control characters", () => {
    fc.assert(fc.property(
      fc.integer({ min: 100, max: 599 }),
      fc.option(fc.string(), { nil: undefined }),
      fc.oneof(
        fc.json(),
        fc.string(),
        fc.record({ detail: fc.string(), code: fc.string() }).map((x) => JSON.stringify(x))
      ),
      (status, retryAfter, body) => {
        const refusal = classifyRefusal({ status, contentType: "application/problem+json", retryAfter, body }, NOW)
        expect(refusal.detail).not.toMatch(/[\x00-\x1f]/)
      }
    ))
  })
})
