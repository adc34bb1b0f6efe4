import { assert, describe, it } from "@effect/vitest"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { udp } from "../protocol/tunnel/packets.ts"
import { Account } from "./Account.ts"
import { Lan } from "./Lan.ts"
import { World } from "./World.ts"

/**
 * What may be left of a visit, bytes: the channels to the addresses of the client and the names of its connection, of each
 * of which 4096 are kept. A connection itself takes several times as much.
 */
const LEFT_PER_VISIT = 8000

const collectGarbage: () => void = (() => {
  setFlagsFromString("--expose-gc")
  return runInNewContext("gc")
})()

const heapUsed = (): number => {
  collectGarbage()
  return process.memoryUsage().heapUsed
}

/** A gateway that one client after the other visits, each with a key of its own. */
const visited = () => {
  const world = new World(5)
  const relays = [world.relay(), world.relay()]
  const answers = { count: 0 }
  const account = new Account(world, {
    relays,
    sites: 1,
    iceless: false,
    onGatewayPacket: ({ machine }) =>
      world.later(0, () => machine.send(udp({ from: "10.200.0.1", to: "100.64.0.1" }, 40_000, "indeed"))),
    onClientPacket: () => answers.count += 1
  })
  account.addGateway(new Lan(world, 1, { nat: "home", ipv6: true }), 0)
  account.addClient(new Lan(world, 2, { nat: "home", ipv6: true }))
  const [client] = account.clients
  const [gateway] = account.gateways
  if (client === undefined || gateway === undefined) throw new Error("nobody is there")
  world.run(1000)
  const visit = (): void => {
    answers.count = 0
    client.machine.send(udp({ from: "100.64.0.1", to: "10.200.0.1" }))
    assert.isTrue(world.runUntil(() => answers.count > 0, 10_000))
    client.machine.core.close(world.now)
    client.machine.drain()
    world.run(100)
    client.machine.restart()
    account.signIn(client)
    world.run(7000) // channels and everything that is remembered for seconds
  }
  return { world, gateway, visit }
}

describe("a gateway whose clients have left", () => {
  it("knows nobody, and waits for nothing but its relays", () => {
    const { gateway, visit, world } = visited()
    visit()
    const { clients, peers } = gateway.machine.core.status(world.now)
    assert.deepStrictEqual([clients, peers], [[], []])
    assert.isAbove(gateway.machine.nextTick() - world.now, 3000)
  })

  it("has as much memory left as before, however many came", () => {
    const { visit } = visited()
    const after = (visits: number): number => {
      for (let i = 0; i < visits; i++) visit()
      return heapUsed()
    }
    // Much of what the first ones leave is compiled code.
    const [before, later] = [after(60), after(40)]
    assert.isBelow(later - before, 40 * LEFT_PER_VISIT)
  })
})
