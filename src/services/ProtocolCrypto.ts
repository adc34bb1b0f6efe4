import * as Context from "effect/Context"
import type { Crypto } from "../protocol/crypto.ts"

/** The cryptography of this process, chosen once at start by known-answer tests (data-plane.md section 4). */
export class ProtocolCrypto
  extends Context.Tag("firezone-headless-client/services/ProtocolCrypto")<ProtocolCrypto, Crypto>()
{}
