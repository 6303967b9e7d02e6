// Prove takes the guards of the product away, one after the other, and shows that a test notices each.
//
//	make prove                    every guard: half an hour on two CPUs
//	make prove PROVE=barrier      those whose name has this pattern
//	go run ./test/prove --help    what else there is
//
// A guard is a line that looks as if it could be left out, and a promise rests on it: that the barrier waits for the high watermark and not
// for the end of the committed records, or that a query names the tenant. A test that passes with and without such a line tells nothing.
//
// # Mutations
//
// A mutation is a txtar file below mutations. Its comment says what would happen without the guard. Lines of the comment that begin with @
// are directives:
//
//	@promise  which promise rests on the guard, one of those in promises.go
//	@guard    what the guard is, in a few words
//	@test     package and name of the test that must notice, as `go test` takes them; the cheapest that does
//	@fails    a text in what that test then says, or in the panic of which its process dies: a test that fails for another reason has not
//	          noticed. Several texts, of which any will do, have || between them
//	@kafka    apache, where only the real broker behaves so that the guard is needed
//
// Its files come in pairs, a text and what stands instead:
//
//	-- processors/reference/barrier.go --
//	const readUncommitted = 0
//	-- instead --
//	const readUncommitted = 1
//
// The text must occur exactly once in the file. It may be a part of a line, and a file may have several pairs.
//
// # How it runs
//
// The mutated files are written to a temporary folder and given to the go command as an overlay, in GOFLAGS, so that what a test builds itself
// is mutated, too. The code of the product is not touched and holds no trace of this: no build contains a mutation that was not built here.
// Without its mutation each test must pass, and with it fail, as @fails says, within a time limit. A mutation that does not compile and a
// test that hangs count as not caught.
//
// That every mutation still fits the code, and compiles, and that README.md lists them all, is part of `make test`.
package main
