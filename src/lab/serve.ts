/** `lab serve NAME CONFIG`: runs one emulator in this process until it is told to stop. Hidden: the lab starts these. */
import * as Effect from "effect/Effect"
import { serveControl } from "./control.ts"
import { LabError } from "./LabError.ts"

interface ServeConfig {
  readonly control: string
}

const web = (config: ServeConfig) =>
  Effect.gen(function*() {
    const { serve } = yield* Effect.promise(() => import("./web.ts"))
    yield* Effect.tryPromise({
      try: serve,
      catch: (error) => new LabError({ what: "web server", why: String(error) })
    })
    yield* serveControl(config.control, () => ({}))
    return yield* Effect.never
  })

export const serve = (name: string, text: string): Effect.Effect<number, LabError> =>
  Effect.scoped(Effect.gen(function*() {
    const config = JSON.parse(text) as ServeConfig
    switch (name) {
      case "web":
        return yield* web(config)
      default:
        return yield* new LabError({ what: `lab serve ${name}`, why: "is no emulator" })
    }
  }))
