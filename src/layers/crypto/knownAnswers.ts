import { CIPHER_HEADROOM, CIPHER_TAILROOM, type DataCipher } from "../../protocol/crypto.ts"
import { TAG_LENGTH } from "./bounds.ts"
import { nonceOf, seal } from "./nodeAead.ts"

const fromHex = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex, "hex"))

// A keep-alive and a path probe of a WireGuard session (connectivity spec 16.4 and 16.5), made by other software.
const KEY = fromHex("a18cc809fd05b6b5f99644cf506f89dce368c2f54a9dbeb9a384f36c274317ef")
const ANSWERS = [
  { counter: 0, plaintext: "", sealed: "2573d3030aabba0c616df8e5a1bab60b" },
  {
    counter: 1,
    plaintext: "6000000000083a4001000000000000000000dead01ce000101000000000000000000dead01ce0002"
      + "8000541612345678",
    sealed: "9af40f88ad1e1f1272b63db4f6f85215233a81f6e3df591701a9e13645a953528d31c823b47c2b46516296edd43cc8b0"
      + "550fdd758ce97913a8d524f809e447fe"
  }
].map(({ counter, plaintext, sealed }) => ({ counter, plaintext: fromHex(plaintext), sealed: fromHex(sealed) }))

// Around the block sizes of the assembly routines (16, 64, 256, 512, 1024) and of packets.
const LENGTHS = [
  0,
  1,
  15,
  16,
  17,
  63,
  64,
  65,
  191,
  192,
  193,
  255,
  256,
  257,
  511,
  512,
  513,
  1023,
  1025,
  1280,
  1420,
  4099
]
const COUNTERS = [0, 1, 0xffff_ffff, 0x1_0000_0000, Number.MAX_SAFE_INTEGER]
const CANARY = 0xa5

/** Why `make` does not seal and open as it must, or `undefined` if it does. Takes about 5 ms. */
export const findWrongAnswer = (make: (key: Uint8Array) => DataCipher): string | undefined => {
  const cipher = make(KEY)
  for (const { counter, plaintext, sealed } of ANSWERS) {
    const wrong = checkOne(cipher, counter, plaintext, sealed, 0)
    if (wrong !== undefined) return wrong
  }
  const key = fromHex("80".repeat(32))
  const another = make(key)
  for (const [index, length] of LENGTHS.entries()) {
    const counter = COUNTERS[index % COUNTERS.length] as number
    const plaintext = Uint8Array.from({ length }, (_, i) => i * 7 + length)
    const sealed = seal(key, nonceOf(counter), plaintext, new Uint8Array(0))
    const wrong = checkOne(another, counter, plaintext, sealed, index & 7)
    if (wrong !== undefined) return wrong
  }
  return undefined
}

const checkOne = (
  cipher: DataCipher,
  counter: number,
  plaintext: Uint8Array,
  sealed: Uint8Array,
  shift: number
): string | undefined => {
  const length = plaintext.length
  const name = `${length} bytes, counter ${counter}`
  const offset = 16 + CIPHER_HEADROOM + shift
  const end = offset + length + CIPHER_TAILROOM
  const buffer = new Uint8Array(end + 16).fill(CANARY)
  buffer.set(plaintext, offset)
  cipher.seal(counter, buffer, offset, length)
  if (!equal(buffer.subarray(offset, offset + sealed.length), sealed)) return `sealing ${name}: another ciphertext`
  if (!untouchedOutside(buffer, offset, end)) return `sealing ${name}: wrote out of bounds`

  for (const room of [0, CIPHER_HEADROOM]) {
    const input = new Uint8Array(room + sealed.length + room).fill(CANARY)
    input.set(sealed, room)
    const before = Uint8Array.from(input)
    const output = new Uint8Array(end + 16).fill(CANARY)
    if (!cipher.open(counter, input, room, sealed.length, output, offset)) return `opening ${name}: refused`
    if (!equal(output.subarray(offset, offset + length), plaintext)) return `opening ${name}: another plaintext`
    if (!untouchedOutside(output, offset, end)) return `opening ${name}: wrote out of bounds`
    if (!equal(input, before)) return `opening ${name}: changed its input`
    for (const at of [room, room + length, room + length + TAG_LENGTH - 1]) {
      input[at] = (input[at] as number) ^ 1
      if (cipher.open(counter, input, room, sealed.length, output, offset)) return `opening ${name}: took a forgery`
      input[at] = (input[at] as number) ^ 1
    }
    if (!equal(input, before)) return `refusing ${name}: changed its input`
  }
  return undefined
}

const equal = (left: Uint8Array, right: Uint8Array): boolean => Buffer.compare(left, right) === 0

const untouchedOutside = (buffer: Uint8Array, offset: number, end: number): boolean =>
  buffer.every((byte, at) => (at >= offset - CIPHER_HEADROOM && at < end) || byte === CANARY)
