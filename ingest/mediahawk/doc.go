// Package mediahawk speaks Mediahawk's REST API, version 2, as far as sales go: sales that are to be matched to telephone calls.
//
//	POST /rest/v2_0/sales/batches        a batch of sales; a sale with the id of an earlier one replaces it
//	GET  /rest/v2_0/sales/batches        the batches of before, the newest first; offset, limit
//	GET  /rest/v2_0/sales/batches/{id}   one of them
//
// Each is there without /rest/v2_0 as well, and with a slash at its end. Callers send a bearer token or the query parameter api_key; if both,
// both must be good and of one tenant.
//
// A request is taken whole or not at all: parse.go reads it and runs the check of the kind, and one bad sale makes the whole request a 400
// that lists every defect. What passes becomes one batch of the kind sales. It is answered as soon as it is committed, before its sales are
// matched; the caller asks again for how far it is. format.go writes the answers, handler.go does nothing else.
//
// # Where we choose, and where we differ from Mediahawk on purpose
//
//	what                                   here                                                          why
//	GET …/{id}                             is there, the object that POST answers; 404 for what is not   only POST and the list are published, and who
//	                                       this tenant's or did not come in here                         posts wants to see the end of it
//	id, successes, errors                  are JSON integers                                             the published schema; its sample has them quoted
//	lookback as "6" or 6.0                 is 6                                                          the sample quotes other integers
//	texts sent as numbers                  are kept literally: 1e3 stays 1e3, digits are never lost      the schema and its sample disagree on key
//	mhid, clis                             both must be there, one of them may be empty                  web-only and phone-only customers are everyday
//	                                                                                                     traffic
//	date                                   YYYY-MM-DD and nothing else; 1900 to 2261                     a time or zone cut off silently would move sales
//	                                                                                                     by a day; what cannot be kept is refused by name
//	a sale without id, with "" or null     is always a new one: sent again, it is there twice            nothing tells it from another sale
//	one id several times in a batch        the last one counts and the others are dropped; one sale      an upsert's last word
//	no sales, or none in the array         200, a batch that is complete with 0 of 0                     the schema does not require them
//	400                                    {"message":"…","errors":[{"field":"sales[3].date",            the shape is not published
//	                                       "message":"…"}]}; so are all other refusals
//	a sale that matches no call            is never a 400; it counts in errors                           published
//	status failed                          only where no sale at all could be judged, by our fault       a batch in which nothing matched is complete
//	counts of an older batch               stay when its sales are sent again in a newer one             they say what became of that batch
//	credentials missing or bad             401 with WWW-Authenticate: Bearer; 403 for a key that does    not published
//	                                       not open this API, or not from this address
//	limit                                  1000 at most, more is taken as 1000; 100 by default           bounded memory
//	at most 10,000 sales, 16 MiB           413 beyond that                                               bounded memory
//	another Content-Type than JSON,        415                                                           what is no JSON cannot be read; none at all is
//	another charset than UTF-8                                                                           taken as JSON
//	a GET right after a write              waits for the write to be readable, then 503 + Retry-After    never an older answer, and never a 404 for an id
//	                                                                                                     that was given out
//	/calls, /campaigns, /webhooks, /sales  404                                                           calls come by Kafka and /v1
package mediahawk
