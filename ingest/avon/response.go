package avon

import (
	"bytes"
	"encoding/csv"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/ingest/avon/jsv"
)

// responseStatus is ServiceStack's form of an error. Its StackTrace is never there.
type responseStatus struct {
	ErrorCode string            `json:"errorCode"`
	Message   string            `json:"message"`
	Errors    []responseError   `json:"errors"` // a list always, if an empty one
	Meta      map[string]string `json:"meta,omitempty"`
}

// formatResponse writes the response DTO: of a request that was processed where status is nil.
func formatResponse(o output, status *responseStatus) []byte {
	switch o.format {
	case formatJSV:
		if status == nil {
			return []byte("{}")
		}
		b := append([]byte(nil), "{responseStatus:"...)
		return append(appendJSV(b, status), '}')
	case formatXML:
		b := append([]byte(nil), xmlDeclaration+"<"+operation+"Response"+xmlNamespaces+">"...)
		b = appendXML(b, status, 2)
		return append(b, "</"+operation+"Response>"...)
	case formatCSV:
		if status == nil {
			return nil
		}
		return csvStatus(status)
	}
	var dto struct {
		ResponseStatus *responseStatus `json:"responseStatus,omitempty"`
	}
	dto.ResponseStatus = status
	return wrap(o, ingest.EncodeJSON(dto))
}

// formatResponses writes the array of n empty response DTOs that an auto-batched request is answered with.
func formatResponses(o output, n int) []byte {
	switch o.format {
	case formatXML:
		b := append([]byte(nil), xmlDeclaration+"<ArrayOf"+operation+"Response"+xmlNamespaces+">"...)
		for range n {
			b = append(b, "<"+operation+"Response>"...)
			b = appendXML(b, nil, 3)
			b = append(b, "</"+operation+"Response>"...)
		}
		return append(b, "</ArrayOf"+operation+"Response>"...)
	case formatCSV:
		return nil
	}
	b := append(make([]byte, 0, 2+3*n), '[') // the same in JSON and JSV
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, "{}"...)
	}
	return wrap(o, append(b, ']'))
}

// wrap makes JSON a call of the callback, where there is one.
func wrap(o output, b []byte) []byte {
	if o.callback == "" || o.format != formatJSON {
		return b
	}
	return slices.Concat([]byte(o.callback+"("), b, []byte(")"))
}

// appendJSV writes a ResponseStatus. Null members are left out.
func appendJSV(b []byte, s *responseStatus) []byte {
	b = jsv.AppendText(append(b, "{errorCode:"...), s.ErrorCode)
	b = jsv.AppendText(append(b, ",message:"...), s.Message)
	b = appendErrorsJSV(append(b, ",errors:"...), s.Errors)
	if len(s.Meta) > 0 {
		b = appendMetaJSV(append(b, ",meta:"...), s.Meta)
	}
	return append(b, '}')
}

func appendErrorsJSV(b []byte, errors []responseError) []byte {
	b = append(b, '[')
	for i, e := range errors {
		if i > 0 {
			b = append(b, ',')
		}
		b = jsv.AppendText(append(b, "{errorCode:"...), e.ErrorCode)
		b = jsv.AppendText(append(b, ",fieldName:"...), e.FieldName)
		b = jsv.AppendText(append(b, ",message:"...), e.Message)
		b = append(b, '}')
	}
	return append(b, ']')
}

func appendMetaJSV(b []byte, meta map[string]string) []byte {
	b = append(b, '{')
	for i, name := range slices.Sorted(maps.Keys(meta)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(jsv.AppendText(b, name), ':')
		b = jsv.AppendText(b, meta[name])
	}
	return append(b, '}')
}

// What documents of the data contract serialiser begin with.
const (
	xmlDeclaration = `<?xml version="1.0" encoding="utf-8"?>`
	xmlNamespaces  = ` xmlns:i="` + instanceNS + `" xmlns="` + contractNS + `"`
)

// appendXML writes the element ResponseStatus, which stands depth elements deep. The data contract serialiser names the prefix of a
// namespace that it first meets there after the depth.
func appendXML(b []byte, s *responseStatus, depth int) []byte {
	prefix := "d" + strconv.Itoa(depth) + "p1"
	if s == nil {
		return append(b, `<ResponseStatus xmlns:`+prefix+`="`+typesNS+`" i:nil="true" />`...)
	}
	start := func(name string) { b = append(b, "<"+prefix+":"+name+">"...) }
	end := func(name string) { b = append(b, "</"+prefix+":"+name+">"...) }
	element := func(name, text string) {
		start(name)
		b = appendXMLText(b, text)
		end(name)
	}
	null := func(name string) { b = append(b, "<"+prefix+":"+name+` i:nil="true" />`...) }
	meta := func(m map[string]string, depth int) {
		arrays := "d" + strconv.Itoa(depth) + "p1"
		b = append(b, "<"+prefix+":Meta xmlns:"+arrays+`="`+arraysNS+`"`...)
		if m == nil {
			b = append(b, ` i:nil="true" />`...)
			return
		}
		b = append(b, '>')
		for _, name := range slices.Sorted(maps.Keys(m)) {
			b = append(b, "<"+arrays+":KeyValueOfstringstring><"+arrays+":Key>"...)
			b = appendXMLText(b, name)
			b = append(b, "</"+arrays+":Key><"+arrays+":Value>"...)
			b = appendXMLText(b, m[name])
			b = append(b, "</"+arrays+":Value></"+arrays+":KeyValueOfstringstring>"...)
		}
		end("Meta")
	}
	b = append(b, `<ResponseStatus xmlns:`+prefix+`="`+typesNS+`">`...)
	element("ErrorCode", s.ErrorCode)
	element("Message", s.Message)
	null("StackTrace")
	start("Errors")
	for _, e := range s.Errors {
		start("ResponseError")
		element("ErrorCode", e.ErrorCode)
		element("FieldName", e.FieldName)
		element("Message", e.Message)
		meta(nil, depth+3)
		end("ResponseError")
	}
	end("Errors")
	meta(s.Meta, depth+1)
	return append(b, "</ResponseStatus>"...)
}

// appendXMLText writes text as .NET does, with quotes as they are, and without what XML cannot say.
func appendXMLText(b []byte, s string) []byte {
	for _, c := range s {
		switch {
		case c == '&':
			b = append(b, "&amp;"...)
		case c == '<':
			b = append(b, "&lt;"...)
		case c == '>':
			b = append(b, "&gt;"...)
		case c == '\r':
			b = append(b, "&#xD;"...)
		case c < ' ' && c != '\n' && c != '\t', c == 0xFFFE, c == 0xFFFF:
			b = utf8.AppendRune(b, utf8.RuneError)
		default:
			b = utf8.AppendRune(b, c)
		}
	}
	return b
}

// csvStatus writes a ResponseStatus as a table of one row; what is no text is JSV in its field, as in every CSV of ServiceStack.
func csvStatus(s *responseStatus) []byte {
	var meta []byte
	if len(s.Meta) > 0 {
		meta = appendMetaJSV(nil, s.Meta)
	}
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	w.UseCRLF = true
	_ = w.WriteAll([][]string{ // a buffer takes everything
		{"errorCode", "message", "stackTrace", "errors", "meta"},
		{s.ErrorCode, s.Message, "", string(appendErrorsJSV(nil, s.Errors)), string(meta)},
	})
	return b.Bytes()
}
