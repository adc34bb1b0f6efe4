/**
 * The raw ChaCha20 and Poly1305 routines inside OpenSSL (`include/crypto/chacha.h`, `include/crypto/poly1305.h`). They
 * are not public API: a caller checks the version and known answers first. Addresses are numbers of bytes that the
 * caller keeps alive; nothing is checked here, and a wrong call crashes the process.
 */
import { bindFromExecutable } from "./executable.ts"

export interface ChaCha20Poly1305Routines {
  /**
   * XORs `length` bytes of key stream. `counter` points to 16 bytes: block counter and nonce as 32-bit words in host
   * order; `key` to 32 bytes. `out` may equal `input`.
   */
  readonly chacha20: (out: number, input: number, length: number, key: number, counter: number) => void
  /** Bytes of a Poly1305 context. */
  readonly poly1305ContextSize: () => number
  readonly poly1305Init: (context: number, key: number) => void
  readonly poly1305Update: (context: number, input: number, length: number) => void
  /** Writes 16 bytes and wipes the context: without another `poly1305Init` the next call jumps to address zero. */
  readonly poly1305Final: (context: number, tag: number) => void
}

/** The routines, or why this executable does not have them. */
export const bindChaCha20Poly1305 = (): ChaCha20Poly1305Routines | string =>
  bindFromExecutable<ChaCha20Poly1305Routines & Record<string, unknown>>({
    chacha20: "void ChaCha20_ctr32(int64_t, int64_t, size_t, int64_t, int64_t)",
    poly1305ContextSize: "size_t Poly1305_ctx_size()",
    poly1305Init: "void Poly1305_Init(int64_t, int64_t)",
    poly1305Update: "void Poly1305_Update(int64_t, int64_t, size_t)",
    poly1305Final: "void Poly1305_Final(int64_t, int64_t)"
  })
