/** `sign-in` and `sign-out`: the token file, without the portal (host spec section 2.2). */
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { tokenIn } from "../protocol/portal/token.ts"
import { ClientConfig, ConfigInvalid } from "../services/ClientConfig.ts"
import { Prompt } from "../services/Prompt.ts"
import { TokenStore } from "../services/TokenStore.ts"

export interface SignInOptions {
  readonly authBaseUrl: URL
  /** Takes the place of the base's path. */
  readonly accountSlug: string | undefined
}

export const signInUrl = ({ accountSlug, authBaseUrl }: SignInOptions): URL => {
  const url = new URL(authBaseUrl)
  if (accountSlug !== undefined) url.pathname = accountSlug
  url.searchParams.append("as", "headless-client")
  return url
}

const steps = (url: URL): string =>
  `To sign this machine in:

  1. Open this address in a browser, on any machine:

     ${url.href}

  2. Sign in.
  3. Copy the token that the page shows.
  4. Paste it here and press Enter. It is not shown.
`

/** Asks for a token and stores it. Whoever gives up has changed nothing. */
export const signIn = (options: SignInOptions) =>
  Effect.gen(function*() {
    const { tokenPath } = yield* ClientConfig
    const store = yield* TokenStore
    yield* store.writable
    yield* Console.log(steps(signInUrl(options)))
    const answer = yield* (yield* Prompt).secret("Token: ")
    if (answer === undefined) return yield* Console.log("Cancelled, nothing was stored.")
    const token = tokenIn(Redacted.value(answer))
    if (token === undefined) {
      return yield* new ConfigInvalid({
        what: "the token",
        why: Redacted.value(answer).trim() === "" ? "is empty" : "holds characters that no token has",
        next: "Nothing was stored"
      })
    }
    yield* store.write(Redacted.make(token))
    yield* Console.log(`The token is stored in ${tokenPath}.\nStart or restart the client to use it.`)
  })

/** Removes the token file; the portal is not told. */
export const signOut = (force: boolean) =>
  Effect.gen(function*() {
    const { tokenPath } = yield* ClientConfig
    const store = yield* TokenStore
    if (!(yield* store.stored)) return yield* Console.log(`Not signed in: there is no ${tokenPath}.`)
    if (!force) {
      const answer = yield* (yield* Prompt).line(`This removes the token in ${tokenPath} for good. Go on? [y/N] `)
      if (!/^y(es)?$/i.test(answer?.trim() ?? "")) return yield* Console.log("Cancelled, nothing was removed.")
    }
    yield* store.remove
    yield* Console.log(`Removed ${tokenPath}.\nA client that runs keeps its session until it is stopped.`)
  })
