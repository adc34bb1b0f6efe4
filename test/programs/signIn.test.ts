import { assert, it } from "@effect/vitest"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import { signIn, signInUrl, signOut } from "../../src/programs/signIn.ts"
import { ClientConfig, ConfigInvalid } from "../../src/services/ClientConfig.ts"
import type { Prompt } from "../../src/services/Prompt.ts"
import { TokenStore } from "../../src/services/TokenStore.ts"
import { makePromptDouble, type PromptDouble } from "../support/PromptDouble.ts"
import { settings } from "../support/settings.ts"

const TOKEN_PATH = "/etc/test/token"
const options = { authBaseUrl: new URL("https://app.firezone.dev/"), accountSlug: undefined }
const notRoot = new ConfigInvalid({ what: "token file", why: "can only be written by root" })

interface Store {
  token: string | undefined
  writable: boolean
}

/** Runs a program; what it printed, and how it ended. */
const run = <A, E>(
  program: Effect.Effect<A, E, ClientConfig | Prompt | TokenStore>,
  store: Store,
  prompt: PromptDouble
) =>
  Effect.gen(function*() {
    const output: Array<string> = []
    const console = yield* Console.consoleWith(Effect.succeed)
    const ended = yield* Effect.either(
      Effect.withConsole(program, { ...console, log: (...args) => Effect.sync(() => void output.push(args.join(" "))) })
    ).pipe(Effect.provide([
      prompt.layer,
      Layer.succeed(ClientConfig, settings({ tokenPath: TOKEN_PATH })),
      Layer.succeed(TokenStore, {
        read: Effect.die("nobody reads it"),
        writable: Effect.suspend(() => store.writable ? Effect.void : notRoot),
        write: (token) => Effect.sync(() => void (store.token = Redacted.value(token))),
        stored: Effect.sync(() => store.token !== undefined),
        remove: Effect.sync(() => {
          const had = store.token !== undefined
          store.token = undefined
          return had
        })
      })
    ]))
    return { ended, text: output.join("\n") }
  })

it("the address has the account, and says who asks (host 18.2)", () => {
  assert.strictEqual(signInUrl(options).href, "https://app.firezone.dev/?as=headless-client")
  const team = { ...options, accountSlug: "my-team" }
  assert.strictEqual(signInUrl(team).href, "https://app.firezone.dev/my-team?as=headless-client")
  const own = { authBaseUrl: new URL("http://localhost:8080/base?x=1"), accountSlug: "a/../b ?#" }
  assert.strictEqual(signInUrl(own).href, "http://localhost:8080/b%20%3F%23?x=1&as=headless-client")
  assert.strictEqual(options.authBaseUrl.href, "https://app.firezone.dev/")
})

it.effect("sign-in stores the token without the space around it, and does not show it", () =>
  Effect.gen(function*() {
    const store: Store = { token: "old", writable: true }
    const { ended, text } = yield* run(signIn(options), store, makePromptDouble("  .secret-token\t "))
    assert.deepStrictEqual(ended, Either.void)
    assert.strictEqual(store.token, ".secret-token")
    assert.include(text, "https://app.firezone.dev/?as=headless-client")
    assert.include(text, TOKEN_PATH)
    assert.notInclude(text, "secret-token")
  }))

it.effect("sign-in stores nothing of who gives up, or pastes something else", () =>
  Effect.gen(function*() {
    for (const answer of [undefined, "", "   ", "naïve", "esc\x1b[A"]) {
      const store: Store = { token: "old", writable: true }
      const { ended } = yield* run(signIn(options), store, makePromptDouble(answer))
      assert.strictEqual(Either.isRight(ended), answer === undefined, answer)
      assert.strictEqual(store.token, "old")
      assert.notInclude(String(ended), "naïve")
    }
  }))

it.effect("sign-in asks nobody who may not store it", () =>
  Effect.gen(function*() {
    const prompt = makePromptDouble("token")
    const { ended } = yield* run(signIn(options), { token: undefined, writable: false }, prompt)
    assert.deepStrictEqual(ended, Either.left(notRoot))
    assert.lengthOf(prompt.questions, 0)
  }))

it.effect("sign-out asks first, and takes only yes for yes", () =>
  Effect.gen(function*() {
    for (
      const [answer, goes] of [["y", true], [" YES ", true], ["n", false], ["", false], ["yes!", false], [
        undefined,
        false
      ]] as const
    ) {
      const store: Store = { token: "token", writable: true }
      const { ended, text } = yield* run(signOut(false), store, makePromptDouble(answer))
      assert.deepStrictEqual(ended, Either.void)
      assert.strictEqual(store.token, goes ? undefined : "token", answer)
      assert.include(text, goes ? TOKEN_PATH : "nothing was removed")
    }
  }))

it.effect("sign-out does not ask when forced, or when there is nothing", () =>
  Effect.gen(function*() {
    const prompt = makePromptDouble()
    const store: Store = { token: "token", writable: true }
    yield* run(signOut(true), store, prompt)
    assert.isUndefined(store.token)
    const { ended, text } = yield* run(signOut(false), store, prompt)
    assert.deepStrictEqual(ended, Either.void)
    assert.include(text, "Not signed in")
    assert.lengthOf(prompt.questions, 0)
  }))
