/** Frames between a GUI and the tunnel service: a 32-bit big-endian length, then so many bytes (host spec section 7.2). */

const HEADER = 4
/** Of a frame without its length. */
export const MAX_FRAME_BYTES = 8 * 1024 * 1024

/** `undefined` if it is longer than a frame may be. */
export const encodeFrame = (body: Uint8Array): Uint8Array | undefined => {
  if (body.length > MAX_FRAME_BYTES) return undefined
  const frame = new Uint8Array(HEADER + body.length)
  new DataView(frame.buffer).setUint32(0, body.length)
  frame.set(body, HEADER)
  return frame
}

/** Room that stays when nothing waits. */
const IDLE_ROOM = 4096

/** Cuts a stream into frames. Holds what was sent, twice at most, and not what was announced. */
export class FrameReader {
  #bytes = new Uint8Array(IDLE_ROOM)
  #start = 0
  #end = 0
  #isBroken = false

  /** Bytes that wait, whole frames included. */
  get held(): number {
    return this.#end - this.#start
  }

  /** A frame was announced that is too long: nothing that follows can be read. */
  get isBroken(): boolean {
    return this.#isBroken
  }

  /** Whether `pollFrame` has one. */
  get hasFrame(): boolean {
    const length = this.#length()
    return length !== undefined && this.held >= HEADER + length
  }

  handleInput(bytes: Uint8Array): void {
    if (this.#isBroken) return
    if (this.#end + bytes.length > this.#bytes.length) this.#makeRoom(bytes.length)
    this.#bytes.set(bytes, this.#end)
    this.#end += bytes.length
    this.#check()
  }

  /** The next whole frame, without its length. */
  pollFrame(): Uint8Array | undefined {
    const length = this.#length()
    if (length === undefined || this.held < HEADER + length) return undefined
    const frame = this.#bytes.slice(this.#start + HEADER, this.#start + HEADER + length)
    this.#start += HEADER + length
    if (this.held === 0) {
      this.#start = 0
      this.#end = 0
      if (this.#bytes.length > IDLE_ROOM) this.#bytes = new Uint8Array(IDLE_ROOM)
    }
    this.#check()
    return frame
  }

  #makeRoom(more: number): void {
    const needed = this.held + more
    // Doubled, so that a frame of many small parts is not copied for each of them.
    const room = needed > this.#bytes.length / 2 ? new Uint8Array(2 * needed) : this.#bytes
    room.set(this.#bytes.subarray(this.#start, this.#end))
    this.#bytes = room
    this.#end -= this.#start
    this.#start = 0
  }

  #check(): void {
    const length = this.#length()
    if (length === undefined || length <= MAX_FRAME_BYTES) return
    this.#isBroken = true
    this.#bytes = new Uint8Array()
    this.#start = 0
    this.#end = 0
  }

  /** Of the frame that is first, once its header is there. */
  #length(): number | undefined {
    return this.held < HEADER
      ? undefined
      : new DataView(this.#bytes.buffer, this.#bytes.byteOffset + this.#start).getUint32(0)
  }
}
