import koffi from "koffi"

const addressOf = koffi.address as unknown as (view: ArrayBufferView) => bigint | number
/**
 * The memory address of a byte array's first byte. Array buffers do not move; whoever stores the number keeps the
 * array referenced.
 */
export const memoryAddress = (bytes: Uint8Array): number => Number(addressOf(bytes))
