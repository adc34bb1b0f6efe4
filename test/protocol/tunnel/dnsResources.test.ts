/** Names of resources: what the sentinels answer, and how packets to such an answer reach a gateway (tunnel spec 11, 12.6). */
import { describe, expect, it } from "vitest"
import type { Resource } from "../../../src/protocol/portal/types.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { type ClientHarness, clientWith } from "./client.ts"
import { addresses, answerTo, dnsResource, PORT, records, SENTINEL } from "./dns.ts"

const client = (...resources: ReadonlyArray<Resource>): ClientHarness => {
  const client = clientWith(...resources)
  client.core.setSystemResolvers([ip("192.0.2.53")])
  client.events()
  return client
}

describe("a name of a resource", () => {
  it("is answered with addresses of the client's own", () => {
    const c = client(dnsResource(1, "*.corp.test"))
    const reply = answerTo(c, "Wiki.corp.test")
    expect(reply).toMatchObject({
      from: SENTINEL,
      port: PORT,
      message: {
        id: 0x1234,
        rcode: "NOERROR",
        flag_qr: true,
        flag_aa: false,
        flag_tc: false,
        flag_rd: true,
        flag_ra: false,
        questions: [{ name: "Wiki.corp.test", type: "A", class: "IN" }],
        authorities: [],
        additionals: []
      }
    })
    expect(records(reply)).toEqual([1, 2, 3, 4].map((i) => `Wiki.corp.test 1 A 100.96.0.${i}`))
    expect(addresses(answerTo(c, "wiki.CORP.test", { type: "AAAA" }))).toEqual([
      "fd00:2021:1111:8000::",
      "fd00:2021:1111:8000::1",
      "fd00:2021:1111:8000::2",
      "fd00:2021:1111:8000::3"
    ])
  })
})
