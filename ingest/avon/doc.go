// Package avon speaks Avon's operation FinancialTransactionsBatchCreate, which is a ServiceStack service: a batch of financial transactions.
//
//	POST /financial-transaction-batches[.json|.jsv|.xml|.csv]
//	POST /{json|jsv|xml|csv}/{reply|oneway}/FinancialTransactionsBatchCreate[[]]
//	POST /api/FinancialTransactionsBatchCreate[[]][.json|.jsv|.xml|.csv]
//
// The last two are there for every operation of every ServiceStack server. With [] behind the name the body is an array of requests.
//
// A body is JSON, JSV (package jsv), XML, CSV or a form; negotiate.go says which, and what the answer will be. objects.go, xml.go and
// tables.go read it, a value at a time, into the one request of request.go, which finds the member (members.go), converts the text
// (values.go) and runs the check of the kind. A request is taken whole or not at all: one value that cannot be read makes it a 400 that names
// every such value by its place. What passes becomes one batch of the kind transactions; response.go writes the answer in each format.
//
// # Arrays of requests
//
// ServiceStack executes the requests of an array in order, up to the first that fails. Here those before the first that cannot be read
// become one batch, so that they cost one commit and are found under one number; the answer is the same: the failure, with the number of
// requests before it in X-AutoBatch-Completed and in the meta member AutoBatchIndex. But where a transaction is too large, nothing of the array is taken,
// as with the other limits: X-AutoBatch-Completed is 0.
//
// # Where we differ from ServiceStack on purpose
//
//	what                                    here                                                         why
//	a value that cannot be converted        400 SerializationException, errors[] names                   ServiceStack drops the value, logs it
//	                                        FinancialTransactions[2].TransactionAmount, nothing is       and answers 200: money would be lost
//	                                        stored
//	a body without a Content-Type, or with  400 on the documented route; on a pre-defined one the        ServiceStack ignores the body and
//	an unknown one                          format of the path counts, JSON where /api names none        answers 200
//	JSON or XML that is called a form       400                                                          curl calls it so, and it would be lost
//	the list twice in the body or the URL   400                                                          one of the two would be lost
//	the list in the body and in the URL     that of the URL comes behind it; a form's goes before        the same
//	a member twice in a transaction, a      400                                                          the same
//	column twice
//	a list that is no list, elements that   400; null in the list is an empty transaction, and kept      the same
//	are no objects
//	malformed JSON, JSV that is cut off     400                                                          ServiceStack keeps what it understood
//	white space in JSV, names in quotes     is passed over; bare texts are trimmed                       the page's own sample has it
//	the word null in JSV                    is null but for texts                                        JSON is sent as JSV
//	numbers                                 exact; 1e3 needs no fraction; commas only between threes     never rounded; 1,5 is no fifteen
//	numbers that .NET would round           400: more than 28 digits after the point, or 29 in all       never rounded
//	times                                   without a zone UTC; seven digits of a second, 1900 to 2261;  never rounded; dd/MM/yyyy depends on
//	                                        the year 1 is absent; no dd/MM/yyyy                          the server's culture
//	XML                                     members in any order and case; the contract's namespace or   the serialiser drops what is not in the
//	                                        none; what else stands in the list is refused                alphabet's order
//	CSV                                     a first line without any known name is refused, and so is a  each row would become an empty
//	                                        row with too many fields                                     transaction
//	Accept                                  qualities count, lists are split, text/jsv, text/json,       the page asks for text/jsv; ServiceStack
//	                                        text/xml are known, HTML is answered with JSON               does not see it
//	success                                 200 and {}; oneway 204                                       the page's sample is a skeleton
//	?callback=                              must be the name of a function                               it goes into a script
//	an array of requests in CSV or a form   400                                                          CSV has one list only
//	keys                                    HTTP Basic, Bearer, X-Api-Key; 401 without                   the page shows none
//	other methods                           405 with Allow; other operations 404                         not published
//	limits and troubles of ours             413, 429, 503 with Retry-After, 500; errorCode is the name   proxies and clients act on them
//	                                        of the status
//	outcomes not known within the wait      202, Location of the job, errorCode Pending                  what was accepted must not look like a
//	                                                                                                     failure
//	a transaction that failed by our fault  500 that names it and the job; the others stay               the same
//	the same batch sent again               is stored again; the view transactions_current shows the     the contract knows no identity
//	                                        last of each natural key
//	the reason phrase of the status         is HTTP's, not the errorCode                                 Go sends no other
package avon
