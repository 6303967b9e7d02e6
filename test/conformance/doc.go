// Package conformance holds golden transcripts of the partners' HTTP APIs and runs them against the whole product, `counterfoil up`: every
// request that the partners' pages print with its answer, the hard cases of their contracts, logging in, refusals, limits, pending answers,
// job URLs, and what an analyst then reads in ClickHouse. All transcripts run on the first start, and once more after a restart on the same
// data folder.
//
// # Transcripts
//
// A transcript is a txtar file below testdata. Its comment says what it shows. Lines of the comment that begin with @ are directives:
//
//	@demo   run as the demo tenant that `counterfoil up` fills, and on the first start only; otherwise each run has a tenant of its own
//	        with the references of the demo tenant, those of references_test.go and the facts of facts_test.go
//
// Its files are steps, in order:
//
//	-- request --         method and path, headers, an empty line, body (its last line break is not sent)
//	-- response --        status, headers that matter, an empty line, body
//	-- response exact --  the same, but the body is compared byte by byte
//	-- sql --             a query as the administrator of ClickHouse, from any table; FINAL is refused
//	-- rows --            what it answers, tab separated, in that order; asked again for some seconds, as the sink is behind
//
// All steps are Go templates. Without arguments token, key, keyID, keySecret and basic (user:password in base64) belong to the file's tenant;
// with the name of another key (see run_test.go) to that. tenant is the file's tenant. repeat N SEP TEXT writes TEXT N times, with its number
// for each #. expired, forged and tokenOf KEY are tokens that no login gives. id NAME is the identifier of a reference of references_test.go or
// facts_test.go, day N the day N days from today, as 20060102. saved NAME is what an earlier answer had at <save NAME>.
//
// A JSON body is compared by structure: numbers by their digits, texts exactly. In its texts and in headers, these stand for values that are
// not known before:
//
//	<id>          32 upper-case hex digits        <item>   32 lower-case hex digits
//	<number>      digits, larger than at the <number> before in the same body
//	<int>         a JSON number without fraction  <time>   an instant in RFC 3339
//	<any>         anything                        <save NAME>  a text or number, kept
package conformance
