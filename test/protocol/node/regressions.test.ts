/** The cases of connectivity spec 17.2 and 17.3 about relays and transactions that no other test has. */
import { assert, describe, it } from "@effect/vitest"
import { RelayInput, Relays } from "../../../src/protocol/node/Relays.ts"
import type { Relay } from "../../../src/protocol/node/types.ts"
import { at, crypto, makeDoubles, relayNamed, socket } from "./support.ts"

const stun = Uint8Array.of(1, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, ...new Uint8Array(12))
const v4 = relayNamed("a")
const v6: Relay = { ...relayNamed("b"), v4: undefined, v6: at("[2001:db8::b]:3478") }
const dual: Relay = { ...relayNamed("abc"), v6: at("[2001:db8::abc]:3478") }

const withRelays = (...relays: ReadonlyArray<Relay>) => {
  const doubles = makeDoubles()
  const table = new Relays(crypto, doubles.make)
  table.update([], relays, 0)
  return { table, of: doubles.of, from: (text: string) => table.handleInput(socket, at(text), stun, 0, stun.length, 0) }
}

describe("the relay of a datagram", () => {
  it("is found by either of its addresses, port and all", () => {
    const { from, of } = withRelays(v4, v6, dual)
    for (
      const [source, id] of [
        ["203.0.113.1:3478", "a"],
        ["[2001:db8::b]:3478", "b"],
        ["203.0.113.3:3478", "abc"],
        ["[2001:db8::abc]:3478", "abc"]
      ] as const
    ) {
      const before = of(id).asked.length
      assert.strictEqual(from(source), RelayInput.Handled, source)
      assert.strictEqual(of(id).asked.length, before + 1, source)
    }
    assert.strictEqual(from("203.0.113.1:3479"), RelayInput.Foreign)
  })

  it("is remembered though it was removed, replaced by another at another address, or given up", () => {
    const { from, of, table } = withRelays(v4, v6, dual)
    table.update(["a"], [], 0)
    table.update([], [{ ...v6, v6: at("[2001:db8::bb]:3478") }], 0)
    of("abc").freed = "no-response"
    table.handleTimeout(0)
    for (const former of ["203.0.113.1", "[2001:db8::b]", "203.0.113.3", "[2001:db8::abc]"]) {
      assert.strictEqual(from(`${former}:3478`), RelayInput.Dropped, former)
    }
    assert.strictEqual(from("[2001:db8::bb]:3478"), RelayInput.Handled)
  })

  it("is no former one any more when it has come back", () => {
    const { from, table } = withRelays(v4)
    table.update(["a"], [], 0)
    assert.strictEqual(from("203.0.113.1:3478"), RelayInput.Dropped)
    table.update([], [v4], 0)
    assert.strictEqual(from("203.0.113.1:3478"), RelayInput.Handled)
  })
})
