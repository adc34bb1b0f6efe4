/** A person whose answers the test gives. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import { Prompt } from "../../src/services/Prompt.ts"

export interface PromptDouble {
  /** The next answers; `undefined` gives up. Whoever asks more often than there are answers is met with silence. */
  readonly answers: Array<string | undefined>
  readonly questions: Array<string>
  readonly layer: Layer.Layer<Prompt>
}

export const makePromptDouble = (...answers: Array<string | undefined>): PromptDouble => {
  const questions: Array<string> = []
  const ask = (question: string): Effect.Effect<string | undefined> =>
    Effect.suspend(() => {
      questions.push(question)
      return answers.length === 0 ? Effect.never : Effect.succeed(answers.shift())
    })
  return {
    answers,
    questions,
    layer: Layer.succeed(Prompt, {
      secret: (question) =>
        Effect.map(ask(question), (answer) => answer === undefined ? undefined : Redacted.make(answer)),
      line: ask
    })
  }
}
