package caliq

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// format is one of the two that requests and answers have.
type format uint8

const (
	unknownFormat format = iota
	jsonFormat
	xmlFormat
)

// mediaTypes are those of both formats, in the order in which the framework tries them.
var mediaTypes = []struct {
	name   string
	format format
}{
	{"application/json", jsonFormat}, {"text/json", jsonFormat}, {"application/xml", xmlFormat}, {"text/xml", xmlFormat},
}

// formatOf is the format of a media type without parameters.
func formatOf(mediaType string) format {
	for _, m := range mediaTypes {
		if strings.EqualFold(m.name, mediaType) {
			return m.format
		}
	}
	return unknownFormat
}

// negotiate chooses the media type of an answer as Web API 2 does. In this order: a request of a browser's script that asks for nothing in
// particular gets JSON; the format whose best type in Accept has the higher q, at one q the one that is named more specifically, then JSON;
// the type of the request; JSON. What suits nobody is no reason to refuse.
func negotiate(h http.Header) string {
	accepted := parseAccept(h.Values("Accept"))
	if strings.EqualFold(h.Get("X-Requested-With"), "XMLHttpRequest") && (len(accepted) == 0 || len(accepted) == 1 && accepted[0].name == "*/*") {
		return mediaTypes[0].name
	}
	inJSON, q, specific := best(accepted, jsonFormat)
	inXML, xmlQ, xmlSpecific := best(accepted, xmlFormat)
	switch {
	case inXML != "" && (xmlQ > q || xmlQ == q && xmlSpecific > specific):
		return inXML
	case inJSON != "":
		return inJSON
	}
	sent, _ := split(h.Get("Content-Type"))
	for _, m := range mediaTypes {
		if strings.EqualFold(m.name, sent) {
			return m.name
		}
	}
	return mediaTypes[0].name
}

// best is the type of a format that Accept wants most, how much, and how specifically it is named; empty and 0 where there is none.
func best(accepted []accept, f format) (mediaType string, q float64, specific int) {
	for _, a := range accepted { // the best first
		for _, m := range mediaTypes {
			if m.format == f && a.holds(m.name) {
				return m.name, a.q, a.specific()
			}
		}
	}
	return "", 0, 0
}

// accept is one range of Accept.
type accept struct {
	name string // lower case
	q    float64
}

func (a accept) holds(mediaType string) bool {
	if a.q == 0 {
		return false
	}
	kind, all := strings.CutSuffix(a.name, "/*")
	return a.name == "*/*" || a.name == mediaType || all && strings.HasPrefix(mediaType, kind+"/")
}

// specific is 2 for a type, 1 for all of a kind, 0 for all.
func (a accept) specific() int {
	switch {
	case a.name == "*/*":
		return 0
	case strings.HasSuffix(a.name, "/*"):
		return 1
	}
	return 2
}

// parseAccept reads the ranges, those that are wanted most first. What cannot be read is left out.
func parseAccept(header []string) []accept {
	var all []accept
	for part := range strings.SplitSeq(strings.Join(header, ","), ",") {
		fields := strings.Split(strings.ToLower(part), ";")
		a := accept{strings.TrimSpace(fields[0]), 1}
		if !strings.Contains(a.name, "/") {
			continue
		}
		readable := true
		for _, field := range fields[1:] {
			if q, ok := strings.CutPrefix(strings.TrimSpace(field), "q="); ok {
				var err error
				a.q, err = strconv.ParseFloat(strings.TrimSpace(q), 64)
				readable = err == nil && a.q >= 0 && a.q <= 1
			}
		}
		if readable {
			all = append(all, a)
		}
	}
	slices.SortStableFunc(all, func(a, b accept) int {
		return cmp.Or(cmp.Compare(b.q, a.q), cmp.Compare(b.specific(), a.specific()))
	})
	return all
}
