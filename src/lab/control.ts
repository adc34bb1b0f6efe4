/** The emulators' control sockets: HTTP over a unix socket in the lab's folder, JSON both ways. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as http from "node:http"
import { LabError } from "./LabError.ts"

const BODY_LIMIT = 1024 * 1024

/** Serves `handle(path, body)`; a thrown error answers 400 with its message. */
export const serveControl = (
  socketPath: string,
  handle: (path: string, body: unknown) => unknown
): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.async<http.Server, LabError>((resume) => {
      const server = http.createServer((request, response) => {
        let text = ""
        request.setEncoding("utf8")
        request.on("data", (part: string) => {
          text += part
          if (text.length > BODY_LIMIT) request.destroy()
        })
        request.on("end", () => {
          const answer = (status: number, value: unknown): void => {
            response.writeHead(status, { "content-type": "application/json" })
            response.end(JSON.stringify(value ?? null))
          }
          Promise.resolve()
            .then(() => handle(request.url ?? "/", text === "" ? undefined : JSON.parse(text)))
            .then((value) => answer(200, value), (error: unknown) => answer(400, { error: String(error) }))
        })
      })
      server.once("error", (error) =>
        resume(Effect.fail(new LabError({ what: `control socket ${socketPath}`, why: error.message }))))
      server.listen(socketPath, () =>
        resume(Effect.succeed(server)))
    }),
    (server) =>
      Effect.sync(() => {
        server.close()
        server.closeAllConnections()
        fs.rmSync(socketPath, { force: true })
      })
  ).pipe(Effect.asVoid)

/** One request to a control socket. */
export const ask = <A>(socketPath: string, path: string, body?: unknown): Effect.Effect<A, LabError> =>
  Effect.async((resume) => {
    const failed = (why: string) => resume(Effect.fail(new LabError({ what: `control request ${path}`, why })))
    const request = http.request({ socketPath, path, method: "POST", timeout: 10_000 }, (response) => {
      let text = ""
      response.setEncoding("utf8").on("data", (part: string) => {
        text += part
      })
      response.on("end", () => {
        if (response.statusCode !== 200) return failed(text)
        try {
          resume(Effect.succeed(JSON.parse(text) as A))
        } catch {
          failed(`answered ${text.slice(0, 100)}`)
        }
      })
    })
    request.on("timeout", () => request.destroy(new Error("no answer within 10 s")))
    request.on("error", (error) => failed(error.message))
    request.end(body === undefined ? "" : JSON.stringify(body))
    return Effect.sync(() => request.destroy())
  })
