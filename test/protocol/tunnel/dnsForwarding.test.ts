/** Queries that the client does not answer itself: to upstreams outside the tunnel and inside it (tunnel spec 12.4 to 12.15). */
import { describe, expect, it } from "vitest"
import type { Resource } from "../../../src/protocol/portal/types.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { type ClientHarness, clientWith } from "./client.ts"
import { ask, dnsResource, outsideQueries, PORT, records, replies, SENTINEL, upstreamAnswer } from "./dns.ts"

const UPSTREAM = "192.0.2.53"

/** Knows one system resolver. */
const client = (...resources: ReadonlyArray<Resource>): ClientHarness => {
  const client = clientWith(...resources)
  client.core.setSystemResolvers([ip(UPSTREAM)])
  client.events()
  return client
}
const a = (name: string, data: string, ttl = 30) => ({ type: "A" as const, name, ttl, data })

describe("outside the tunnel", () => {
  it("a query goes to the upstream as it is, and its answer back to who asked", () => {
    const c = client(dnsResource(1, "*.corp.test"))
    ask(c, "Example.com")
    expect(replies(c)).toEqual([])
    const [query, ...more] = outsideQueries(c)
    expect(more).toEqual([])
    expect(query).toMatchObject({ transport: "udp", upstream: { _tag: "Do53", address: UPSTREAM } })
    const { id, message } = query as NonNullable<typeof query>
    c.core.dnsResponse(id, upstreamAnswer(message, [a("Example.com", "203.0.113.80")]), c.now)
    const [reply] = replies(c)
    expect(reply).toMatchObject({ from: SENTINEL, port: PORT, message: { id: 0x1234, rcode: "NOERROR" } })
    expect(reply && records(reply)).toEqual(["Example.com 30 A 203.0.113.80"])
  })
})
