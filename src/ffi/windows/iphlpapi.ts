/** iphlpapi.dll: bound on first use, so that importing is harmless on any platform. */
import koffi from "koffi"
import { memoryAddress } from "../memory.ts"
import { SyscallError } from "../SyscallError.ts"

export const ERROR_BUFFER_OVERFLOW = 111

/** winerror.h */
const errorNames: { readonly [code: number]: string } = {
  2: "ERROR_FILE_NOT_FOUND",
  5: "ERROR_ACCESS_DENIED",
  8: "ERROR_NOT_ENOUGH_MEMORY",
  50: "ERROR_NOT_SUPPORTED",
  87: "ERROR_INVALID_PARAMETER",
  [ERROR_BUFFER_OVERFLOW]: "ERROR_BUFFER_OVERFLOW",
  232: "ERROR_NO_DATA",
  1168: "ERROR_NOT_FOUND",
  1231: "ERROR_NETWORK_UNREACHABLE",
  1232: "ERROR_HOST_UNREACHABLE"
}

export const win32Error = (syscall: string, code: number): SyscallError =>
  new SyscallError({ syscall, code, errno: errorNames[code] ?? "UNKNOWN" })

/** Calls return a Win32 error code, 0 for success. */
export interface IpHelper {
  /** Fills `buffer` with the list of adapters; its pointers are memory addresses. `length` is what it takes. */
  readonly getAdaptersAddresses: (buffer: Uint8Array) => { readonly code: number; readonly length: number }
  /**
   * The best route to `destination` (a `SOCKADDR_INET`) through the interface `luid`: fills `row` (a
   * `MIB_IPFORWARD_ROW2`) and `source` (a `SOCKADDR_INET`).
   */
  readonly getBestRoute2: (luid: bigint, destination: Uint8Array, row: Uint8Array, source: Uint8Array) => number
}

type Call = (...args: ReadonlyArray<number>) => number

/** By its full path: a DLL of this name beside the executable must not take its place. */
const open = (): ReturnType<typeof koffi.load> =>
  koffi.load(`${process.env["SystemRoot"] ?? "C:\\Windows"}\\System32\\iphlpapi.dll`)

let library: ReturnType<typeof open> | undefined
/** Pointers are declared `int64_t` and passed as numbers; 0 is NULL. */
const lazily = (declaration: string): () => Call => {
  let bound: Call | undefined
  return () => bound ??= (library ??= open()).func(declaration) as unknown as Call
}

const callGetAdaptersAddresses = lazily(
  "uint32_t GetAdaptersAddresses(uint32_t family, uint32_t flags, int64_t reserved, int64_t buffer, int64_t length)"
)
const callGetBestRoute2 = lazily(
  "uint32_t GetBestRoute2(int64_t luid, uint32_t index, int64_t source, int64_t destination, uint32_t sort, "
    + "int64_t row, int64_t bestSource)"
)

/** GAA_FLAG_SKIP_ANYCAST, _MULTICAST and _DNS_SERVER: less work, and nothing of them is read. */
const SKIP = 0x0e

export const ipHelper: IpHelper = {
  getAdaptersAddresses: (buffer) => {
    const length = Uint32Array.of(buffer.length)
    const lengthAddress = memoryAddress(new Uint8Array(length.buffer))
    const code = callGetAdaptersAddresses()(0, SKIP, 0, memoryAddress(buffer), lengthAddress)
    return { code, length: length[0] as number }
  },
  getBestRoute2: (luid, destination, row, source) => {
    const luidBytes = new Uint8Array(BigUint64Array.of(luid).buffer)
    return callGetBestRoute2()(
      memoryAddress(luidBytes),
      0,
      0,
      memoryAddress(destination),
      0,
      memoryAddress(row),
      memoryAddress(source)
    )
  }
}
