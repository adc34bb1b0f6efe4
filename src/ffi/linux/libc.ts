/** The C library of this process: bound on first use, so that importing is harmless on any platform. */
import koffi from "koffi"
import { SyscallError } from "../SyscallError.ts"

type Library = ReturnType<typeof koffi.load>
let library: Library | undefined

/** glibc or musl: whichever the node executable is linked with. */
export const libc = (): Library => library ??= koffi.load(null)

/** Declares a C function and binds it at the first call. Pointers passed as numbers are declared `int64_t`. */
export const lazily = <F extends (...args: never) => unknown>(declaration: string): () => F => {
  let bound: F | undefined
  return () => bound ??= libc().func(declaration) as unknown as F
}

const errnoNames = new Map(Object.entries(koffi.os.errno).map(([name, code]) => [code as number, name]))
export const errnoName = (code: number): string => errnoNames.get(code) ?? "UNKNOWN"

/** The errno of the call just made; read it in the same turn, the next call overwrites it. */
export const errno = (): number => koffi.errno()

export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  ESRCH: 3,
  EINTR: 4,
  EIO: 5,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EBUSY: 16,
  EEXIST: 17,
  EINVAL: 22,
  EMSGSIZE: 90,
  ENOPROTOOPT: 92,
  EOPNOTSUPP: 95,
  EAFNOSUPPORT: 97,
  EADDRINUSE: 98,
  EADDRNOTAVAIL: 99,
  ENETDOWN: 100,
  ENETUNREACH: 101,
  ENOBUFS: 105,
  ECONNREFUSED: 111,
  EHOSTUNREACH: 113,
  EINPROGRESS: 115
} as const

/** The error of the call just made. */
export const lastError = (syscall: string, hint?: string): SyscallError => {
  const code = errno()
  return new SyscallError({ syscall, code, errno: errnoName(code), hint })
}

export { memoryAddress } from "../memory.ts"

export const close = lazily<(fd: number) => number>("int close(int)")
