// Package helloid speaks HelloID's product ownership API, version 1: who owns how many of a product.
//
//	POST /api/v1/productownership/        application/json   one record
//	POST /api/v1/productownership/batch/  application/json   an array of records
//	POST /api/v1/productownership/csv/    text/csv           lines without a header
//	GET  /api/v1/productownership/{SKU}                      who owns the product now
//
// Each is there with and without a slash at its end. Callers send a key and its secret by HTTP Basic.
//
// A request is taken whole or not at all: parse.go reads it and runs the check of the kind, and one bad record makes the whole request a
// 400 that lists every defect. What passes becomes one batch of the kind ownership; format.go writes its outcomes. handler.go does nothing else.
//
// # Where we differ from HelloID on purpose
//
//	what                                   here                                                          why
//	HasProduct absent                      is not false but "not said": without Quantity and             the published defaults contradict each other; the
//	                                       IncreaseQuantityBy the record is a grant of one               page's own example is such a grant
//	dates as yyyy-MM-dd                    are taken, in requests                                        courtesy; answers have dd-MM-yyyy only
//	explicit null of TimeOfApproval,       forgets the stored value; an absent member keeps it           the page does not say
//	Source
//	a batch with one bad record            is refused whole, 400                                         the page knows no partial answer
//	users and SKUs                         are compared without regard to case; the spelling that        directories do; nothing is published
//	                                       was sent last is shown
//	unknown users and SKUs                 are taken                                                     there is no directory here
//	Quantity, IncreaseQuantityBy           beyond 1,000,000,000 in either direction are refused          no limit is published
//	at most 10,000 records, 16 MiB         413 beyond that                                               bounded memory
//	outcomes not known within the wait     202, Location of the job, resultCode 202                      what was accepted must not look like a failure:
//	                                                                                                     increments sent twice count twice
//	a record that failed by our fault      500 that names it and the job; the others stay applied        the same
//	the error result                       resultCode, resultMsg, errors of index, field, message        only resultMsg is known, from the vendor's connectors
//	wrong or missing Content-Type,         400                                                           the only documented failure
//	another charset than UTF-8
//	TimeOfApproval and Source of a         are null in the answer                                        a removed record knows nothing more
//	record that went to 0
//	a wrong method on a known path         405 with Allow, in the form of the error result               not published
//	a GET right after a write              waits for the write to be readable, then 503 + Retry-After    never an older answer
//	NaN, Infinity, octal and hexadecimal   are malformed                                                 none of the members takes them
//	numbers, constructors
//
// Everything else of Newtonsoft's JSON dialect is read as the vendor's server does; see package lenient.
package helloid
