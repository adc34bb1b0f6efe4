/** The public cipher interface of OpenSSL, EVP_EncryptInit(3), from the node executable. */
import { bindFromExecutable } from "./executable.ts"

export const EVP_CTRL_AEAD_GET_TAG = 0x10
export const EVP_CTRL_AEAD_SET_TAG = 0x11

/** Addresses are numbers; 0 is NULL. Functions return 1 for success. */
export interface EvpRoutines {
  /** Never freed: two contexts serve the whole process. 0 if out of memory. */
  readonly newContext: () => number | bigint
  readonly chacha20Poly1305: () => number | bigint
  /** `encrypt` is 1 or 0. NULL for a parameter keeps it as it was. */
  readonly init: (
    context: number,
    cipher: number,
    engine: 0,
    key: number,
    nonce: number,
    encrypt: 0 | 1
  ) => number
  /** `outLength` points to an int. */
  readonly update: (context: number, out: number, outLength: number, input: number, length: number) => number
  readonly final: (context: number, out: number, outLength: number) => number
  readonly control: (context: number, command: number, argument: number, pointer: number) => number
}

/** The routines, or why this executable does not have them. */
export const bindEvp = (): EvpRoutines | string =>
  bindFromExecutable<EvpRoutines & Record<string, unknown>>({
    newContext: "int64_t EVP_CIPHER_CTX_new()",
    chacha20Poly1305: "int64_t EVP_chacha20_poly1305()",
    init: "int EVP_CipherInit_ex(int64_t, int64_t, int64_t, int64_t, int64_t, int)",
    update: "int EVP_CipherUpdate(int64_t, int64_t, int64_t, int64_t, int)",
    final: "int EVP_CipherFinal_ex(int64_t, int64_t, int64_t)",
    control: "int EVP_CIPHER_CTX_ctrl(int64_t, int, int, int64_t)"
  })
