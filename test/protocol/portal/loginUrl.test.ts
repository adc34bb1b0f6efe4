import { describe, expect, it } from "vitest"
import { dialTarget, loginUrl, wireExternalId } from "../../../src/protocol/portal/loginUrl.ts"
import { tokenIn } from "../../../src/protocol/portal/token.ts"
import { semanticVersion, userAgent } from "../../../src/protocol/portal/userAgent.ts"

const publicKey = Uint8Array.from({ length: 32 }, (_, i) => i)
const url = (base: string, over: Partial<Parameters<typeof loginUrl>[3]> = {}, endpoint: "v2" | "v1" = "v2") =>
  loginUrl(new URL(base), "client", endpoint, { externalId: "device", name: "laptop", publicKey, ...over })?.href

describe("login URL (portal spec 2.1, test 2)", () => {
  it("is the vector: order, path, encoding, hashed id", () => {
    expect(url("wss://api.firezone.dev/?old=query", { externalId: "2f6c1e6a-6a4e-4b57-9c55-0d4f2c0f8b11" })).toBe(
      "wss://api.firezone.dev/client/v2/websocket?external_id=3f5e77a232dbb66d26bc9d4de41d37ff360ca65d54997d05c1e4a577f1b8f521"
        + "&name=laptop&public_key=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8%3D"
    )
  })
  it("hashes every spelling of a UUID as it is spelled, and nothing else (host 18.5)", () => {
    // The host spec's vector.
    expect(wireExternalId("550e8400-e29b-41d4-a716-446655440000"))
      .toBe("a3a9e1ed9732cab28868127be00f1ce921acaefdd5c3b23a6e9e0072bd9c1a34")
    const spellings = [
      "550e8400-e29b-41d4-a716-446655440000",
      "550E8400-E29B-41D4-A716-446655440000",
      "550e8400e29b41d4a716446655440000",
      "urn:uuid:550e8400-e29b-41d4-a716-446655440000",
      "{550e8400-e29b-41d4-a716-446655440000}"
    ]
    expect(new Set(spellings.map(wireExternalId)).size).toBe(spellings.length)
    for (const spelling of spellings) expect(wireExternalId(spelling)).toMatch(/^[0-9a-f]{64}$/)
    for (const id of ["device", "", "550e8400-e29b-41d4-a716-44665544000", "a".repeat(64)]) {
      expect(wireExternalId(id)).toBe(id)
    }
  })
  it("puts hardware facts before the key, and encodes everything", () => {
    expect(url("ws://127.0.0.1:8081", {
      name: "Jo's Läptop & co",
      deviceSerial: "A+B/C=",
      deviceUuid: "x y",
      publicKey: new Uint8Array(32).fill(0xfb)
    })).toBe(
      "ws://127.0.0.1:8081/client/v2/websocket?external_id=device&name=Jo%27s+L%C3%A4ptop+%26+co"
        + "&device_serial=A%2BB%2FC%3D&device_uuid=x+y&public_key=%2B%2Fv7%2B%2Fv7%2B%2Fv7%2B%2Fv7%2B%2Fv7%2B%2Fv7%2B%2Fv7%2B%2Fv7%2B%2Fv7%2B%2Fv7%2B%2Fs%3D"
    )
  })
  it("converts schemes, keeps the base path, drops one empty segment", () => {
    const path = (base: string, endpoint?: "v1") => url(base, {}, endpoint)?.split("?")[0]
    expect(path("http://h.example/prefix/")).toBe("ws://h.example/prefix/client/v2/websocket")
    expect(path("https://h.example/prefix")).toBe("wss://h.example/prefix/client/v2/websocket")
    expect(path("wss://h.example/a//")).toBe("wss://h.example/a//client/v2/websocket")
    expect(path("wss://h.example", "v1")).toBe("wss://h.example/client/websocket")
    expect(path("ws://[2001:db8::1]:8081/")).toBe("ws://[2001:db8::1]:8081/client/v2/websocket")
    expect(path("ftp://h.example/")).toBeUndefined()
  })
  it("dials 443 unless the URL names another port, literals without brackets (test 3)", () => {
    const target = (base: string) => dialTarget(new URL(url(base) as string))
    expect(target("ws://portal.example")).toEqual({ host: "portal.example", port: 443, secure: false })
    expect(target("ws://portal.example:80")).toEqual({ host: "portal.example", port: 443, secure: false })
    expect(target("wss://portal.example")).toEqual({ host: "portal.example", port: 443, secure: true })
    expect(target("https://[::1]:8081/x")).toEqual({ host: "::1", port: 8081, secure: true })
  })
  it("strips every whitespace from the token", () => {
    expect(tokenIn(" .SFM\tyNT\n Y=\u00a0\r\n")).toBe(".SFMyNTY=")
  })
  it("takes no token that a header cannot hold, and not an empty one", () => {
    for (const text of ["", " \n", "a\u0000b", "t\u00f6ken", "a\u007f", "\u200bx"]) {
      expect(tokenIn(text)).toBeUndefined()
    }
  })
})

describe("user agent (portal spec 2.2, 12.1)", () => {
  it("keeps the layout that the portal parses", () => {
    const text = userAgent("client", {
      osType: "Debian",
      osVersion: "12.0.0",
      arch: "x86_64",
      kernel: "6.8.0-40-generic"
    }, "0.1.0")
    expect(text).toBe("Debian/12.0.0 headless-client/1.5.12 (x86_64; 6.8.0-40-generic) firezone-node/0.1.0")
    expect(text.split(" ").filter((token) => /^(headless-client|gateway|gui-client|relay|connlib)\//.test(token)))
      .toEqual(["headless-client/1.5.12"])
  })
  it("leaves out what is unknown and cannot be broken by what a host says", () => {
    expect(userAgent("gateway", { osType: "Debian GNU/Linux", osVersion: "", kernel: "6.1 gateway/9.9.9" }, "0.1.0"))
      .toBe("DebianGNULinux/0.0.0 gateway/1.6.1 (6.1gateway9.9.9) firezone-node/0.1.0")
    expect(userAgent("client", { osType: "ÜX", osVersion: "1.2.3" }, "0.1.0"))
      .toBe("X/1.2.3 headless-client/1.5.12 firezone-node/0.1.0")
  })
  it("pads versions", () => {
    expect(["24.04", "12", "10.0.19045", "", "3.20.1_alpha", "41 (x)"].map(semanticVersion))
      .toEqual(["24.4.0", "12.0.0", "10.0.19045", "0.0.0", "3.20.1", "41.0.0"])
  })
})
