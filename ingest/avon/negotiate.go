package avon

import (
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// format is one of those that bodies are in.
type format uint8

const (
	noFormat format = iota
	formatJSON
	formatJSV
	formatXML
	formatCSV
	formatForm
	formatParts // a form in parts
)

// byName are the formats as paths and ?format= name them. A page in HTML is JSON here: nobody reads these answers in a browser.
var byName = map[string]format{"json": formatJSON, "jsv": formatJSV, "xml": formatXML, "csv": formatCSV, "html": formatJSON}

// byType are the formats by their media types. text/json, text/xml and text/jsv mean the same as their brothers.
var byType = map[string]format{
	"application/json":                  formatJSON,
	"text/json":                         formatJSON,
	"application/jsv":                   formatJSV,
	"text/jsv":                          formatJSV,
	"application/xml":                   formatXML,
	"text/xml":                          formatXML,
	"text/csv":                          formatCSV,
	"application/csv":                   formatCSV,
	"application/x-www-form-urlencoded": formatForm,
	"multipart/form-data":               formatParts,
}

// mediaTypes are the formats' media types, by which requests are told apart.
var mediaTypes = [...]string{
	noFormat:    "",
	formatJSON:  "application/json",
	formatJSV:   "text/jsv",
	formatXML:   "application/xml",
	formatCSV:   "text/csv",
	formatForm:  "application/x-www-form-urlencoded",
	formatParts: "multipart/form-data",
}

// output is the form of an answer.
type output struct {
	format   format
	alias    string // the media type that the caller asked for, where it is not the format's first
	callback string // JSONP: the function that the answer is passed to
}

// contentType is the header of an answer.
func (o output) contentType() string {
	switch {
	case o.callback != "":
		return "text/javascript; charset=utf-8"
	case o.format == formatJSON:
		return "application/json; charset=utf-8"
	case o.alias != "":
		return o.alias
	case o.format == formatJSV:
		return "application/jsv"
	case o.format == formatXML:
		return "application/xml"
	default:
		return "text/csv"
	}
}

// mediaType is the type of a Content-Type header, in small letters, without parameters.
func mediaType(header string) string {
	t, _, _ := strings.Cut(header, ";")
	return strings.ToLower(strings.TrimSpace(t))
}

// bodyFormat is the format of a request's body, by Content-Type or else by the route.
func bodyFormat(r *http.Request, rt *route) (f format, boundary string) {
	header := r.Header.Get("Content-Type")
	f, known := byType[mediaType(header)]
	if !known {
		return rt.body, ""
	}
	if f == formatParts {
		_, params, err := mime.ParseMediaType(header)
		if boundary = params["boundary"]; err != nil || boundary == "" {
			return noFormat, ""
		}
	}
	return f, boundary
}

// negotiate chooses the form of the answer. What wins is, in this order: the suffix of the documented path, ?callback=, ?format=, the
// format that a pre-defined route names, Accept, JSON. There is always an answer, never 406. A callback that is no name of a function
// is left out, and reported.
func negotiate(r *http.Request, rt *route, query url.Values) (o output, badCallback bool) {
	if rt.suffix {
		return output{format: rt.format}, false
	}
	if callback := query.Get("callback"); callback != "" {
		if !isFunction(callback) {
			return output{format: formatJSON}, true
		}
		return output{format: formatJSON, callback: callback}, false
	}
	name, _, _ := strings.Cut(strings.ToLower(query.Get("format")), ".")
	if f := byName[name]; f != noFormat {
		return output{format: f}, false
	}
	if rt.format != noFormat {
		return output{format: rt.format}, false
	}
	return accepted(r), false
}

// isFunction reports whether a callback is a name, or names with points between them: it goes into a script.
func isFunction(s string) bool {
	if len(s) > 100 {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		for i, c := range []byte(part) {
			letter := c == '_' || c == '$' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
			if !letter && (i == 0 || c < '0' || c > '9') {
				return false
			}
		}
		if part == "" {
			return false
		}
	}
	return true
}

// accepted chooses by Accept: the type with the highest quality, of several the one that the body has, then HTML or JSON, XML, JSV, any type
// (which is the body's), and CSV at last.
func accepted(r *http.Request) output {
	sent := mediaType(r.Header.Get("Content-Type"))
	best, bestQuality, bestRank := output{format: formatJSON}, 0.0, 0
	for _, header := range r.Header.Values("Accept") {
		for entry := range strings.SplitSeq(header, ",") {
			t, quality := acceptedType(entry)
			o, rank := offer(t, sent)
			if rank > 0 && (quality > bestQuality || quality > 0 && quality == bestQuality && rank > bestRank) {
				best, bestQuality, bestRank = o, quality, rank
			}
		}
	}
	return best
}

// offer is the form for an accepted type, and its rank among those of one quality, larger ones first; 0: it is none of ours.
func offer(t, sent string) (o output, rank int) {
	o = output{format: byType[t], alias: t}
	switch {
	case t == "text/html":
		return output{format: formatJSON}, 5
	case t == "*/*":
		if o = (output{format: byType[sent], alias: sent}); o.format == noFormat || o.format >= formatForm {
			o = output{format: formatJSON}
		}
		return o, 2
	case o.format == noFormat || o.format >= formatForm:
		return output{}, 0
	case o.format == byType[sent]:
		return o, 6
	}
	return o, [...]int{formatJSON: 5, formatXML: 4, formatJSV: 3, formatCSV: 1}[o.format]
}

// acceptedType is the media type and the quality of an element of Accept. A quality that cannot be read counts as none given.
func acceptedType(entry string) (t string, quality float64) {
	t, params, _ := strings.Cut(entry, ";")
	quality = 1
	for p := range strings.SplitSeq(params, ";") {
		name, v, _ := strings.Cut(p, "=")
		if strings.EqualFold(strings.TrimSpace(name), "q") {
			if f, err := strconv.ParseFloat(strings.TrimSpace(v), 64); err == nil && f >= 0 && f <= 1 {
				quality = f
			}
		}
	}
	return strings.ToLower(strings.TrimSpace(t)), quality
}
