// Package caliq speaks the one operation of Caliq's API that we serve: what a customer bought.
//
//	POST /api/v1/CustomerBuyingReport   application/json, text/json, application/xml, text/xml
//
// It is a read all the same: the key and the question are in the body. Caliq runs on ASP.NET's Web API 2, and its clients rely on what that
// framework does: how a body is read, in which format an answer comes, what errors look like.
//
//   - request.go: from a body to a question, or to what is wrong with it; xml.go reads the XML, package lenient the JSON;
//   - negotiate.go: the media type of the answer;
//   - format.go: the report, and errors as the framework's HttpError;
//   - handler.go: the order of the checks. Can it be read (400, 415), is the key good (401), are the fields (400), was anything bought (200, 204)?
//
// # How fresh the report is
//
// It is made of orders, invoices and stock that upstream systems report. A line is in it as soon as ClickHouse has it, about a second after
// it was acknowledged; the report does not wait for lines that are on their way, because whoever asks is not who sent them. "Today" is the
// day in UTC.
//
// # Where we choose, and where we differ from Caliq on purpose
//
//	what                                   here                                                          why
//	"Required"                             of CustomerID and AccountNo one must say something, 0, blank  sibling operations require members that are to be
//	                                       and absent are the same; the other three must be there        left empty
//	a key in a header                      is taken as well, where the body has none                     one key opens every door
//	a bad key, any bad key                 401, one text, WWW-Authenticate: Bearer                       a good key from a wrong address must look like a
//	                                                                                                     wrong one; RFC 9110 wants the header
//	BasedOn                                O and I in either case                                        courtesy
//	AccountNo                              has at most 10 characters before blanks are cut off           the order is not published
//	MonthsBack below 1, weeks below 0      400                                                           nothing is published
//	an empty body, null                    400 before the key is looked at                               there is no key in it
//	what cannot be converted               "An error has occurred." under its name in ModelState; in     the framework masks it so
//	                                       words in our log
//	members of a wrong type in XML         are named, as in JSON                                         the framework gives up at the first
//	form bodies                            415                                                           not in the published list of formats
//	other charsets than UTF-8, UTF-16      are read as UTF-8, and are 400 where they are not             as the framework does
//	Accept-Charset                         is ignored: answers are UTF-8                                 every client reads that
//	NextAvail, LastInvoiced without date   "" in JSON; no element in XML                                 never null, never 00000000
//	characters that XML cannot hold        U+FFFD                                                        the framework fails with 500
//	503                                    with Retry-After                                              says when to come back
//	nested deeper than 64                  400                                                           bounded work
//	bodies over 64 KiB                     413                                                           they are read before the key in them is known
//	other operations                       404 in the framework's form                                   they are not ours
package caliq
