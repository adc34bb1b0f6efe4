import { memoryAddress } from "../../ffi/linux/libc.ts"

/**
 * The memory address of the array it was asked about last: packets live in few arrays, and asking costs as much as an
 * FFI call. It keeps that array alive, so that the address stays right.
 */
export class LastArray {
  #array: Uint8Array = new Uint8Array(0)
  #address = 0
  view: DataView = new DataView(new ArrayBuffer(0))

  addressOf(array: Uint8Array): number {
    return array === this.#array ? this.#address : this.#change(array)
  }

  #change(array: Uint8Array): number {
    this.#address = memoryAddress(array)
    this.#array = array
    this.view = new DataView(array.buffer, array.byteOffset, array.byteLength)
    return this.#address
  }
}
