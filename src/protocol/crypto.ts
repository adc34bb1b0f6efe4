/**
 * The cryptography that protocol code is given (data-plane.md section 4). One implementation over `node:crypto` and the
 * OpenSSL of the node executable lives in `src/layers/crypto`; tests may pass others.
 */

/** Bytes that `DataCipher` may overwrite in front of the plaintext it seals or opens into. */
export const CIPHER_HEADROOM = 64
/** Bytes that `DataCipher` may overwrite behind the plaintext: the tag and one length block. */
export const CIPHER_TAILROOM = 32

/** ChaCha20-Poly1305 with one key, empty AAD and a 96-bit nonce of 4 zero bytes and the little-endian counter. */
export interface DataCipher {
  /**
   * Encrypts `buffer[offset, offset + length)` in place and writes the 16-byte tag behind it. Overwrites
   * `CIPHER_HEADROOM` bytes before `offset` and up to `CIPHER_TAILROOM` after the plaintext.
   * `counter` is an integer below 2^53.
   */
  seal(counter: number, buffer: Uint8Array, offset: number, length: number): void
  /**
   * Decrypts `input[offset, offset + length)` (ciphertext and tag, `length` >= 16) to `output[outputOffset, ...)` and
   * returns whether the tag is right. `input` is as before when it returns. Overwrites `CIPHER_HEADROOM` bytes before
   * `outputOffset` and up to `CIPHER_TAILROOM` after the plaintext; what it wrote is worthless if it returns false.
   */
  open(
    counter: number,
    input: Uint8Array,
    offset: number,
    length: number,
    output: Uint8Array,
    outputOffset: number
  ): boolean
}

/** Everything else the protocols need. Calls are synchronous; byte arrays are fresh. */
export interface Crypto {
  readonly randomBytes: (length: number) => Uint8Array
  /** X25519 public key of a 32-byte private key (RFC 7748). */
  readonly x25519PublicKey: (privateKey: Uint8Array) => Uint8Array
  /** X25519 shared secret; `undefined` if it is all zero (RFC 7748 section 6.1). */
  readonly x25519: (privateKey: Uint8Array, publicKey: Uint8Array) => Uint8Array | undefined
  /** ChaCha20-Poly1305 (RFC 8439) with a counter nonce as in `DataCipher`; for handshakes. */
  readonly aeadSeal: (key: Uint8Array, counter: number, plaintext: Uint8Array, aad: Uint8Array) => Uint8Array
  readonly aeadOpen: (
    key: Uint8Array,
    counter: number,
    ciphertext: Uint8Array,
    aad: Uint8Array
  ) => Uint8Array | undefined
  readonly dataCipher: (key: Uint8Array) => DataCipher
  readonly hmacSha1: (key: Uint8Array, ...parts: ReadonlyArray<Uint8Array>) => Uint8Array
  readonly md5: (bytes: Uint8Array) => Uint8Array
}
