import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { REPLAY_WINDOW, ReplayWindow } from "../../../src/protocol/wireguard/ReplayWindow.ts"

/** What the window promises, with everything remembered. */
class Model {
  readonly #seen = new Set<number>()
  #next = 0

  accept(counter: number): boolean {
    if (counter < this.#next - REPLAY_WINDOW || this.#seen.has(counter)) return false
    this.#seen.add(counter)
    this.#next = Math.max(this.#next, counter + 1)
    return true
  }
}

const accept = (window: ReplayWindow, counter: number): boolean => {
  const isFresh = window.isFresh(counter)
  if (isFresh) window.mark(counter)
  return isFresh
}

/** Steps from the highest counter so far: small ones, jumps about as wide as the window, and huge ones. */
const step = fc.oneof(
  { weight: 6, arbitrary: fc.integer({ min: -40, max: 40 }) },
  { weight: 3, arbitrary: fc.integer({ min: -REPLAY_WINDOW - 3, max: -REPLAY_WINDOW + 3 }) },
  { weight: 3, arbitrary: fc.integer({ min: REPLAY_WINDOW - 3, max: REPLAY_WINDOW + 3 }) },
  { weight: 2, arbitrary: fc.integer({ min: -REPLAY_WINDOW, max: REPLAY_WINDOW }) },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: 2 ** 33 }) }
)
const start = fc.constantFrom(0, 1, REPLAY_WINDOW - 1, 2 ** 31 - 5, 2 ** 32 - 5, 2 ** 52)

describe("the replay window", () => {
  it("accepts what a list of everything seen would", () => {
    fc.assert(fc.property(start, fc.array(step, { maxLength: 120 }), (first, steps) => {
      const window = new ReplayWindow()
      const model = new Model()
      let highest = first
      for (const delta of [0, ...steps]) {
        const counter = Math.max(0, highest + delta)
        expect(accept(window, counter), `counter ${counter}`).toBe(model.accept(counter))
        highest = Math.max(highest, counter)
      }
    }))
  })

  it("takes a whole window backwards, once, and nothing before it", () => {
    const window = new ReplayWindow()
    const highest = 100_000
    for (let counter = highest; counter > highest - REPLAY_WINDOW; counter--) expect(accept(window, counter)).toBe(true)
    for (let counter = highest; counter > highest - REPLAY_WINDOW; counter--) {
      expect(accept(window, counter)).toBe(false)
    }
    expect(window.isFresh(highest - REPLAY_WINDOW)).toBe(false)
    expect(window.isFresh(highest + 1)).toBe(true)
  })

  it("asks without marking", () => {
    const window = new ReplayWindow()
    expect(window.isFresh(5)).toBe(true)
    expect(window.isFresh(5)).toBe(true)
    window.mark(5)
    expect(window.isFresh(5)).toBe(false)
    expect(window.isFresh(4)).toBe(true)
  })
})
