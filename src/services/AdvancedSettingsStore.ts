import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type { AdvancedSettings } from "../model/gui.ts"
import type { ConfigInvalid } from "./ClientConfig.ts"

/** What a person has changed about the tunnel service, from one run to the next (host spec section 7.4). */
export class AdvancedSettingsStore
  extends Context.Tag("firezone-headless-client/services/AdvancedSettingsStore")<AdvancedSettingsStore, {
    /** What was saved last; `undefined` if nothing was, or what is there cannot be read, which is logged. */
    readonly load: Effect.Effect<AdvancedSettings | undefined>
    /** For root alone, replacing what was there as a whole. */
    readonly save: (settings: AdvancedSettings) => Effect.Effect<void, ConfigInvalid>
  }>()
{}
