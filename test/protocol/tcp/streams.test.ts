/** Two connections over a bad link, against the plainest model of TCP: what one end writes is what the other end reads. */
import { assert, describe, it } from "@effect/vitest"
import * as FastCheck from "effect/FastCheck"
import { TcpConnection } from "../../../src/protocol/tcp/TcpConnection.ts"
import {
  Clock,
  ends,
  type LinkFaults,
  parseSegment,
  randomBytesOf,
  reversed,
  runUntil,
  seeded,
  seen
} from "./support.ts"

const here = ends("100.64.0.1", 50_000, "10.0.0.53", 53)

/** One end with what it has to write and what it has read. */
class End {
  readonly read: Array<number> = []
  connection: TcpConnection | undefined
  #written = 0
  readonly #text: Uint8Array
  readonly #chunk: () => number
  readonly #hunger: () => number
  constructor(text: Uint8Array, chunk: () => number, hunger: () => number) {
    this.#text = text
    this.#chunk = chunk
    this.#hunger = hunger
  }
  get isWritten(): boolean {
    return this.#written === this.#text.length
  }
  /** Writes while little waits, reads as much as it likes to, and closes when both are at their ends. */
  act(): void {
    const connection = this.connection
    if (connection === undefined) return
    if (connection.readable > 0) {
      const end = Math.min(connection.readable, this.#hunger())
      this.read.push(...connection.read(0, end))
    }
    while (!this.isWritten && connection.unacknowledged < 20_000) {
      const end = Math.min(this.#text.length, this.#written + this.#chunk())
      connection.write(this.#text.subarray(this.#written, end))
      this.#written = end
    }
  }
}

/** Has no more to say and waits for nothing more. */
const isDone = ({ connection, isWritten, read }: End, expected: number): boolean =>
  connection?.state === "established" && isWritten && read.length === expected && connection.unacknowledged === 0

interface Run {
  readonly left: End
  readonly right: End
  readonly clock: Clock
}

const run = (seed: number, faults: LinkFaults, sizes: readonly [number, number], family: 4 | 6): Run => {
  const random = seeded(seed)
  const clock = new Clock(random, faults)
  const bytes = randomBytesOf(random)
  const between = family === 4 ? here : ends("fd00::1", 50_000, "fd00::2", 53)
  const chunk = () => 1 + Math.floor(random() ** 3 * 8000)
  // Reads less than it could now and then, so that windows close.
  const hunger = () => random() < 0.2 ? 1 + Math.floor(random() * 50) : 1 + Math.floor(random() * 70_000)
  const left = new End(bytes(sizes[0]), chunk, hunger)
  const right = new End(bytes(sizes[1]), chunk, hunger)
  left.connection = TcpConnection.connect(between, Math.floor(random() * 2 ** 32) | 0)
  const toLeft = (packet: Uint8Array, now: number) => left.connection?.handleSegment(parseSegment(packet), now)
  const toRight = (packet: Uint8Array, now: number) => {
    const segment = parseSegment(packet)
    if (right.connection === undefined) {
      right.connection = TcpConnection.accept(reversed(between), Math.floor(random() * 2 ** 32) | 0, segment)
    } else {
      right.connection.handleSegment(segment, now)
    }
  }
  const settle = () => {
    left.act()
    right.act()
    if (isDone(left, sizes[1])) left.connection?.close()
    if (right.connection?.isPeerFinished === true && right.isWritten) right.connection.close()
    for (const [end, deliver] of [[left, toRight], [right, toLeft]] as const) {
      for (
        let packet = end.connection?.pollPacket(clock.now);
        packet !== undefined;
        packet = end.connection?.pollPacket(clock.now)
      ) clock.send(packet, deliver)
    }
  }
  const machines = [left, right].map((end) => ({
    handleTimeout: (now: number) => end.connection?.handleTimeout(now),
    // An end that reads on whenever it is woken, woken often.
    pollTimeout: () => {
      const timeout = end.connection?.pollTimeout()
      return (end.connection?.readable ?? 0) > 0 ? Math.min(timeout ?? Infinity, clock.now + 20) : timeout
    }
  }))
  const isOver = () => left.connection?.state === "closed" && right.connection?.state === "closed"
  runUntil(clock, machines, settle, isOver, 600_000)
  return { left, right, clock }
}

const faults = FastCheck.record({
  // Much more, and seven losses of one segment in a row, which end a connection, are not rare enough.
  loss: FastCheck.constantFrom(0, 0.01, 0.04),
  duplication: FastCheck.constantFrom(0, 0.05, 0.3),
  delay: FastCheck.constantFrom(0, 5, 60),
  jitter: FastCheck.constantFrom(0, 1, 40)
})
const size = FastCheck.oneof(FastCheck.constant(0), FastCheck.nat(100), FastCheck.nat(200_000))

describe("two connections", () => {
  it("read what the other end wrote, whatever the link does", () => {
    FastCheck.assert(
      FastCheck.property(
        FastCheck.nat(),
        faults,
        size,
        size,
        FastCheck.constantFrom<4 | 6>(4, 6),
        (seed, faults, a, b, family) => {
          const { left, right } = run(seed, faults, [a, b], family)
          const random = seeded(seed)
          const bytes = randomBytesOf(random)
          assert.deepStrictEqual([left.read.length, right.read.length], [b, a])
          assert.deepStrictEqual(right.read, [...bytes(a)])
          assert.deepStrictEqual(left.read, [...bytes(b)])
          assert.deepStrictEqual([left.connection?.state, right.connection?.state], ["closed", "closed"])
        }
      ),
      { numRuns: 60 }
    )
  })

  it("send nothing twice over a link that loses nothing, and not a packet more than acknowledgments need", () => {
    for (const delay of [0, 40]) {
      const { clock, left, right } = run(3, { loss: 0, duplication: 0, delay, jitter: 0 }, [150_000, 90_000], 4)
      assert.deepStrictEqual([left.connection?.state, right.connection?.state], ["closed", "closed"])
      const all = clock.sent.map(seen)
      // Apart from probes of windows that the reader, slow on purpose, has closed.
      const bytes = all.reduce((sum, { payload }) => sum + (payload.length > 1 ? payload.length : 0), 0)
      assert.isAtMost(bytes, 240_000)
      assert.isAbove(bytes, 239_000)
      const count = (flag: string) => all.filter(({ flags }) => flags.includes(flag)).length
      assert.deepStrictEqual([count("SYN"), count("FIN"), count("RST")], [2, 2, 0])
      const full = Math.ceil(240_000 / 1240)
      assert.isBelow(all.length, 4 * full)
    }
  })
})
