import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { ClientConfig, ConfigInvalid } from "../../services/ClientConfig.ts"
import { ProtocolCrypto } from "../../services/ProtocolCrypto.ts"
import { AeadUnavailable, makeCrypto } from "./makeCrypto.ts"

/** Chooses once; fails if the setting `aead` forces one that does not work in this node executable. */
export const layer: Layer.Layer<ProtocolCrypto, ConfigInvalid, ClientConfig> = Layer.effect(
  ProtocolCrypto,
  Effect.gen(function*() {
    const { aead } = yield* ClientConfig
    const choice = yield* Effect.try({
      try: () => makeCrypto(aead === "auto" ? {} : { aead }),
      catch: (cause) => cause
    }).pipe(
      Effect.catchAll((cause) =>
        cause instanceof AeadUnavailable
          ? Effect.fail(new ConfigInvalid({ what: `--aead ${aead}`, why: cause.reason }))
          : Effect.die(cause)
      )
    )
    yield* Effect.logDebug("packet cipher chosen").pipe(
      Effect.annotateLogs({
        module: "crypto",
        aead: choice.aead,
        ...(choice.rejected.length === 0 ? {} : { rejected: choice.rejected.map(({ message }) => message).join("; ") })
      })
    )
    return choice.crypto
  })
)
