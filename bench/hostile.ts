/** What a datagram of an attacker costs a node that has one connection, by kind, and what a million of them leave behind. */
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { type Attack, HostilePeer } from "../test/support/HostilePeer.ts"
import type { BenchResult } from "./report.ts"
import { atMost, nanosPerCall } from "./timing.ts"

const CALLS = 20_000
/** Those that make us do an X25519 are two hundred times as dear. */
const CALLS_OF_THE_DEAR = 500
const MILLION = 1_000_000
/** Fresh handshake messages are judged by their second. */
const PER_MILLISECOND = 100
const MEBIBYTE = 2 ** 20

const collectGarbage: () => void = (() => {
  setFlagsFromString("--expose-gc")
  return runInNewContext("gc")
})()

const heapUsed = (): number => {
  collectGarbage()
  return process.memoryUsage().heapUsed
}

const attack = (world: HostilePeer, make: Attack, calls: number): void => {
  for (let i = 0; i < calls; i++) {
    world.take(make(i))
    for (let next = world.node.pollTransmit(); next !== undefined; next = world.node.pollTransmit());
    if (i % PER_MILLISECOND === 0) world.now += 1
  }
}

export const settings = (): ReadonlyArray<string> => [
  `in the bench's own process, without sockets: a node that has one connection is handed ${CALLS} datagrams of each kind (${CALLS_OF_THE_DEAR} of those with cookies), the best of nine series`
]

export const run = async (): Promise<ReadonlyArray<BenchResult>> => {
  const world = new HostilePeer()
  const attacks = world.attacks()
  const results: Array<BenchResult> = []
  for (const [name, make] of attacks) {
    const calls = name.includes("cookie") ? CALLS_OF_THE_DEAR : CALLS
    results.push({ name, value: nanosPerCall(calls, (calls) => attack(world, make, calls)), unit: "ns" })
  }
  const cheap = [...attacks].filter(([name]) => !name.includes("cookie")).map(([, make]) => make)
  const before = heapUsed()
  for (const make of cheap) attack(world, make, Math.ceil(MILLION / cheap.length))
  results.push(atMost("heap growth after a million of all kinds", (heapUsed() - before) / MEBIBYTE, "MiB", 1))
  return results
}
