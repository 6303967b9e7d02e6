package crmcom

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/schemas"
)

// The answers, written by hand: the order of members is that of the published samples, <, > and & stay as they are, and a call of a
// thousand rows costs one buffer.

// formatReceipt is the answer to a call whose rows all have their outcome.
func formatReceipt(receipt *ingest.Receipt, items []ingest.Item, f fields) []byte {
	b := make([]byte, 0, 256+160*len(items))
	b = append(b, `{"data":{"unprocessed_customer_events_set":[`...)
	first := true
	for i := range receipt.Results {
		result := &receipt.Results[i]
		if result.Processed != nil || len(result.Reasons) == 0 {
			continue
		}
		code, description := describe(result.Reasons)
		b = beginRow(b, &first)
		if f&fieldErrorDescription != 0 {
			b = append(b, `"error_description":`...)
			b = append(appendText(b, description), ',')
		}
		if f&fieldErrorCode != 0 {
			b = append(b, `"error_code":`...)
			b = append(appendText(b, code), ',')
		}
		b = endRow(b, items[result.Index].Ref)
	}
	b = append(b, `],"processed_customer_events_set":[`...)
	first = true
	for i := range receipt.Results {
		result := &receipt.Results[i]
		number, id, ok := created(result.Processed)
		if !ok {
			continue
		}
		b = beginRow(b, &first)
		if f&fieldNumber != 0 {
			b = append(b, `"number":"`...)
			b = append(strconv.AppendInt(b, number, 10), `",`...)
		}
		if f&fieldID != 0 {
			b = append(b, `"id":`...)
			b = append(appendText(b, strings.ToUpper(id)), ',')
		}
		b = endRow(b, items[result.Index].Ref)
	}
	return append(b, `]},`+okStatus+`}`...)
}

const okStatus = `"status":{"code":"OK","description":"","message":""}`

func beginRow(b []byte, first *bool) []byte {
	if !*first {
		b = append(b, ',')
	}
	*first = false
	return append(b, '{')
}

func endRow(b []byte, ref *string) []byte {
	b = append(b, `"request_unique_identifier":`...)
	if ref == nil {
		b = append(b, "null"...)
	} else {
		b = appendText(b, *ref)
	}
	return append(b, '}')
}

// created reads what the caller learns about an event that was created.
func created(processed any) (number int64, id string, ok bool) {
	switch p := processed.(type) {
	case *schemas.EventResult:
		return p.Number, p.ID, true
	case *schemas.ReferralResult:
		return p.Number, p.ID, true
	}
	return 0, "", false
}

// formatToken is the answer to a login.
func formatToken(token string) []byte {
	b := append([]byte(nil), `{"data":{"token":`...)
	return append(appendText(b, token), `},`+okStatus+`}`...)
}

// formatDone is the answer where there is nothing to tell.
func formatDone() []byte { return []byte(`{"data":{},` + okStatus + `}`) }

// formatFailure is the answer to a call that failed as a whole.
func formatFailure(f *failure) []byte {
	b := append([]byte(nil), `{"data":{},"status":{"code":`...)
	b = append(appendText(b, f.code), `,"description":`...)
	b = append(appendText(b, f.description), `,"message":`...)
	return append(appendText(b, f.message), `}}`...)
}

// appendText appends s as a JSON string. Only what JSON demands is escaped.
func appendText(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				b = append(append(b, s[from:i]...), "\ufffd"...)
				from = i + 1
			}
			i += n
			continue
		}
		if c >= ' ' && c != '"' && c != '\\' {
			i++
			continue
		}
		b = append(b, s[from:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			b = append(b, `\u00`...)
			b = append(b, hex[c>>4], hex[c&15])
		}
		i++
		from = i
	}
	return append(append(b, s[from:]...), '"')
}
