/** What may happen to an account's devices, as plain values: a failing story is kept as JSON and told again. */
import * as fc from "fast-check"
import { NAT_KINDS, type NatKind } from "./nat.ts"

export const HAPPENINGS = [
  "nothing",
  "client roams",
  "gateway roams",
  "client restarts",
  "gateway restarts",
  "client sleeps",
  "gateway sleeps",
  "client says goodbye",
  "gateway says goodbye",
  "relay dies",
  "relay dies in silence",
  "relay forgets",
  "portal is away",
  "portal connection breaks",
  "gateway is cut off from a client",
  "client is cut off from a relay",
  "translator forgets",
  "access is taken back",
  "grants are short",
  "resource goes and comes"
] as const
export type Happening = (typeof HAPPENINGS)[number]

export interface Chapter {
  readonly happens: Happening
  /** Picks whom it happens to, modulo how many there are. */
  readonly who: number
  readonly seconds: number
  readonly weather: { readonly loss: number; readonly duplication: number; readonly jitter: number }
}

export interface Story {
  readonly seed: number
  readonly relays: number
  readonly sites: number
  readonly lans: ReadonlyArray<{
    readonly nat: NatKind
    readonly ipv6: boolean
    readonly hairpins: boolean
    /** Of a mapping, in seconds; 0 for never. */
    readonly timeout: number
  }>
  /** The networks that they begin in, modulo how many there are. */
  readonly clients: ReadonlyArray<number>
  /** Likewise; the first ones serve a site each, the others any. */
  readonly gateways: ReadonlyArray<number>
  readonly chapters: ReadonlyArray<Chapter>
  /** Whether connections are made in path mode. */
  readonly iceless?: boolean
}

const percent = (max: number): fc.Arbitrary<number> => fc.integer({ min: 0, max }).map((value) => value / 100)

const weather = fc.oneof(
  fc.constant({ loss: 0, duplication: 0, jitter: 0 }),
  fc.record({ loss: percent(80), duplication: percent(50), jitter: fc.integer({ min: 0, max: 500 }) })
)

const chapter: fc.Arbitrary<Chapter> = fc.record({
  happens: fc.constantFrom(...HAPPENINGS),
  who: fc.nat(11),
  seconds: fc.integer({ min: 1, max: 10 }),
  weather
})

const lan = fc.record({
  nat: fc.constantFrom(...NAT_KINDS),
  ipv6: fc.boolean(),
  hairpins: fc.boolean(),
  // The rarest datagrams that keep a mapping alive are 25 s apart.
  timeout: fc.constantFrom(0, 30, 120)
})

/** Mostly small ones, for these find as much in less time. */
const few = (max: number): fc.Arbitrary<ReadonlyArray<number>> =>
  fc.oneof(
    { weight: 3, arbitrary: fc.array(fc.nat(3), { minLength: 1, maxLength: 1 }) },
    { weight: 1, arbitrary: fc.array(fc.nat(3), { minLength: 1, maxLength: max }) }
  )

export const story: fc.Arbitrary<Story> = fc.record({
  seed: fc.nat(0xffff),
  relays: fc.integer({ min: 1, max: 3 }),
  sites: fc.integer({ min: 1, max: 2 }),
  lans: fc.array(lan, { minLength: 1, maxLength: 4 }),
  clients: few(4),
  gateways: few(4),
  chapters: fc.array(chapter, { minLength: 1, maxLength: 4 }),
  iceless: fc.boolean()
})
