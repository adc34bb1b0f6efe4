#!/usr/bin/env node
import { main } from "../src/programs/main.ts"
import { NAME, run } from "../src/programs/tunnelCli.ts"

main(process.argv.slice(2), { name: NAME, run })
