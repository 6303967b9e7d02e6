// Package crmcom speaks the part of CRM.COM's Web API that creates customer events in bulk: a login, and seven methods that differ in the
// kind of event.
//
//	POST /crmapi/rest/v2/authentication/token                     username, password, organisation, unit → token
//	POST /crmapi/rest/v2/authentication/web_api_key/token         key as the user name of HTTP Basic     → token
//	POST /crmapi/rest/v2/authentication/token/release             token
//	POST /crmapi/rest/v2/customer_events/bulk/<kind>/create       token, <kind>_customer_events_set, fields_set
//
// Kinds are achievements, purchases, referrals, social_media, web, financial_achievements and financial_statements (kinds.go).
//
// A call is read in two passes: call.go finds the token, which may stand behind the rows, counts the rows and makes sure that the whole
// body is JSON; row.go then reads row after row straight into the schemas' types (members.go says which member goes where, values.go how
// dates and numbers are read). A row is refused here only for what its schema cannot carry, or when no answer could name it; all else is
// judged by the processors. format.go writes the answer and errors.go holds the one table from our reasons to CRM.COM's exceptions.
// handler.go does nothing else.
//
// # Where we differ from CRM.COM on purpose
//
//	what                                     here                                                        why
//	Content-Type                             is not looked at, the body is read as JSON                  real clients misspell it
//	a no-break space between tokens, a BOM   are skipped                                                 the published samples begin with one
//	failed calls, unknown methods            HTTP 200, the exception in status.code                      clients lose the text otherwise
//	names of exceptions                      ours, but for NotFoundAPIValueException and                 no other name is published
//	                                         ReferredByAnotherParticipantException
//	a row with several defects               shows the first; all are in /v1/batches/{n}/unprocessed     the published form has one
//	more than 1000 rows                      nothing is processed                                        not published
//	a request_unique_identifier sent twice   rejects every later row with it                             outcomes could not be told apart
//	the same, a number                       counts and is echoed as its text: 6 is "6"                  the contract declares texts
//	account and participant                  exactly one of the two (the R11 rule)                       later versions want the account only
//	the set of financial_statements          under both published names; both at once are an error       one of them is a slip of the page
//	payment_medium_type_identifier, twice    in financial achievements the second one is the brand       the page prints it so
//	an unknown product                       is an error                                                 no default product is configured
//	amounts                                  exact, also as texts and with exponents; beyond 28 digits   never rounded
//	                                         before and 10 after the point the row is an error
//	"" for a number or a date                is the same as null: not given                              clients fill forms
//	dates without a zone                     are UTC; Z, an offset and a date alone are taken; kept to   not published
//	                                         the millisecond, from 1900-01-01 to 2261-12-31
//	total_amount that is not net plus VAT    is kept and flagged                                         not published
//	fields_set                               also as an array of texts; naming nothing, it asks for all  not published
//	an identifier of more than 1,000 bytes   is an error of its row                                      it travels with the row's record
//	number                                   rises in the order of the rows of a call, with gaps         no counter is kept
//	an empty set of rows                     is answered with two empty sets                             not published
//	a set given twice                        is an error                                                 one of the two would be lost
//	token/release                            answers OK, the token lives out its two hours               tokens are signed, not stored
//	a key in a header                        opens the API without a token                               every door of ours takes it
//	200,000 lines of products and measures   in a call at most; the row that goes beyond is an error     bounded memory
//	outcomes not known within the wait       HTTP 202, Location of the job, status.code PENDING          what was accepted must not look like a failure
//	limits and troubles of ours              HTTP 413, 429, 503 (with Retry-After), 500 in the envelope  proxies and clients act on them
package crmcom
