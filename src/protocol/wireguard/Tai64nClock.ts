const EPOCH_HIGH = 0x4000_0000 // 2^62 seconds
const TAI_OFFSET = 37
const NANOS_PER_MILLI = 1_000_000
const NANOS_PER_SECOND = 1_000_000_000

/** TAI64N labels (connectivity spec 11.2) that strictly grow, though the clock may stand still between two calls. */
export class Tai64nClock {
  readonly #unixEpochMillis: number
  #seconds = 0
  #nanos = 0

  /** Unix time in milliseconds at `now` = 0. */
  constructor(unixEpochMillis: number) {
    this.#unixEpochMillis = unixEpochMillis
  }

  /** 12 bytes, big-endian. */
  next(now: number): Uint8Array {
    // Whole and broken milliseconds apart: their sum would lose the nanoseconds to rounding.
    const epochWhole = Math.floor(this.#unixEpochMillis)
    const nowWhole = Math.floor(now)
    const whole = epochWhole + nowWhole
    let seconds = Math.floor(whole / 1000)
    let nanos = (whole - seconds * 1000) * NANOS_PER_MILLI
      + Math.round((this.#unixEpochMillis - epochWhole + (now - nowWhole)) * NANOS_PER_MILLI)
    while (nanos >= NANOS_PER_SECOND) {
      seconds += 1
      nanos -= NANOS_PER_SECOND
    }
    if (seconds < this.#seconds || (seconds === this.#seconds && nanos <= this.#nanos)) {
      seconds = this.#seconds
      nanos = this.#nanos + 1
    }
    if (nanos === NANOS_PER_SECOND) {
      seconds += 1
      nanos = 0
    }
    this.#seconds = seconds
    this.#nanos = nanos
    const label = new Uint8Array(12)
    const view = new DataView(label.buffer)
    const tai = seconds + TAI_OFFSET
    view.setUint32(0, EPOCH_HIGH + Math.floor(tai / 0x1_0000_0000))
    view.setUint32(4, tai % 0x1_0000_0000)
    view.setUint32(8, nanos)
    return label
  }
}

/** Whether label `left` is later than `right`. */
export const isLater = (left: Uint8Array, right: Uint8Array): boolean => {
  for (let i = 0; i < left.length; i++) {
    const difference = (left[i] as number) - (right[i] as number)
    if (difference !== 0) return difference > 0
  }
  return false
}
