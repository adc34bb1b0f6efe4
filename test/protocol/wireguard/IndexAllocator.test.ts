import { expect, it } from "vitest"
import { IndexAllocator } from "../../../src/protocol/wireguard/IndexAllocator.ts"
import { crypto } from "./peers.ts"

const take = (allocator: IndexAllocator, count: number): Array<number | undefined> =>
  Array.from({ length: count }, () => allocator.next())

it("hands out every 24-bit number but one, each once, and then none", () => {
  const allocator = new IndexAllocator(crypto)
  const seen = new Uint8Array(2 ** 24)
  let twice = 0
  for (let i = 0; i < 2 ** 24 - 1; i++) {
    const value = allocator.next() ?? -1
    if (!(value >= 0 && value < seen.length) || seen[value] === 1) twice += 1
    else seen[value] = 1
  }
  expect(twice).toBe(0)
  expect(take(allocator, 2)).toEqual([undefined, undefined])
})

it("looks different on every node, whatever the seed", () => {
  const of = (...seed: ReadonlyArray<number>) =>
    take(new IndexAllocator({ randomBytes: () => Uint8Array.from(seed) }), 3)
  // The register may not be all zero, or it would stay so; then it is 1.
  expect(of(0, 0, 0, 0, 0, 0)).toEqual([0, 0xd8_0000 - 1, 0x6c_0000 - 1])
  expect(of(0, 0, 1, 0, 0, 0)).toEqual(of(0, 0, 0, 0, 0, 0))
  expect(of(0, 0, 1, 0xff, 0xff, 0xff)).toEqual([0xff_ffff, 0xff_ffff ^ (0xd8_0000 - 1), 0xff_ffff ^ (0x6c_0000 - 1)])
  expect(take(new IndexAllocator(crypto), 4)).not.toEqual(take(new IndexAllocator(crypto), 4))
})
