/** Paths between networks of several machines: which kind there must be, and that it lasts. */
import { assert, describe, it } from "@effect/vitest"
import type { Client } from "./Account.ts"
import { Life } from "./Life.ts"
import { isDirect, NAT_KINDS, type NatKind } from "./nat.ts"
import type { Story } from "./story.ts"

const calm = (parts: Partial<Story>): Life => {
  const life = new Life({ seed: 1, relays: 2, sites: 1, lans: [], clients: [0], gateways: [1], chapters: [], ...parts })
  life.tell()
  life.talk(5) // better paths are found later
  return life
}

const lan = (nat: NatKind, timeout = 0) => ({ nat, ipv6: false, hairpins: false, timeout })

const kindsOf = ({ account, world }: Life): ReadonlyArray<string | undefined> =>
  account.clients.flatMap(({ machine }: Client) => machine.core.status(world.now).peers.map(({ path }) => path?.kind))

describe("a client and a gateway", () => {
  for (const client of NAT_KINDS) {
    for (const gateway of NAT_KINDS) {
      const direct = isDirect(client, gateway)
      it(`behind ${client} and ${gateway}: ${direct ? "direct" : "relayed"}, also after ten minutes without traffic`, () => {
        const life = calm({ lans: [lan(client, 30), lan(gateway, 30)] })
        for (const pause of [0, 600_000]) {
          life.world.run(pause)
          assert.deepStrictEqual(kindsOf(life).map((kind) => kind === "direct"), [direct])
        }
        assert.isAtMost(life.recover(), 1000, "the first packet is answered")
      })
    }
  }

  it("in one network are direct, whatever its translator does", () => {
    for (const nat of NAT_KINDS) {
      assert.deepStrictEqual(kindsOf(calm({ lans: [lan(nat)], clients: [0], gateways: [0] })), ["direct"], nat)
    }
  })
})

describe("an account of many", () => {
  it("connects every client to every site, each by its own path", () => {
    const life = calm({
      sites: 2,
      relays: 3,
      lans: [lan("home"), lan("symmetric"), lan("none"), lan("relay-only")],
      clients: [0, 0, 1, 3],
      gateways: [0, 1, 2, 3]
    })
    assert.strictEqual(kindsOf(life).length, 8)
    assert.isFalse(kindsOf(life).includes(undefined))
    life.leave()
    for (const { machine } of life.account.gateways) {
      const { clients, peers } = machine.core.status(life.world.now)
      assert.deepStrictEqual([clients, peers], [[], []], "they have said goodbye")
    }
  })

  it("sends little while nobody has anything to say", () => {
    const life = calm({ lans: [lan("home"), lan("home")] })
    const before = life.world.emitted
    life.world.run(60_000)
    // What it costs is what is sent: checks of each pair, and nothing else.
    assert.isBelow(life.world.emitted - before, 600)
  })
})
