// Package openapicheck holds exchanges between clients and the service against the OpenAPI document that the service publishes.
package openapicheck

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"github.com/counterfoil/counterfoil/ingest/openapi"
)

func init() {
	// What the document calls a text is one; what stands in it is checked by other tests.
	text := func(body io.Reader, _ http.Header, _ *openapi3.SchemaRef, _ openapi3filter.EncodingFn) (any, error) {
		all, err := io.ReadAll(body)
		return string(all), err
	}
	for _, media := range []string{"application/x-ndjson", "application/jsv", "text/jsv", "application/xml", "text/xml", "text/csv", "application/csv", "text/javascript", "text/html"} {
		openapi3filter.RegisterBodyDecoder(media, text)
	}
	openapi3filter.RegisterBodyDecoder("text/json", func(body io.Reader, _ http.Header, _ *openapi3.SchemaRef, _ openapi3filter.EncodingFn) (any, error) {
		var v any
		return v, json.NewDecoder(body).Decode(&v)
	})
}

// Document is the published document, ready to be asked. It is safe for concurrent use.
type Document struct {
	Spec  *openapi3.T
	paths []path
}

type path struct {
	name   string
	item   *openapi3.PathItem
	match  *regexp.Regexp
	params []string
}

// Load reads the document and checks that it is valid OpenAPI 3.1.
func Load() (*Document, error) {
	spec, err := openapi3.NewLoader().LoadFromData(openapi.Document())
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	if err := spec.Validate(context.Background(), openapi3.IsOpenAPI31OrLater()); err != nil {
		return nil, fmt.Errorf("validate: %w", err)
	}
	d := &Document{Spec: spec}
	for name, item := range spec.Paths.Map() {
		p := path{name: name, item: item}
		var pattern strings.Builder
		for i, part := range strings.Split(strings.ReplaceAll(name, "}", "{"), "{") {
			if i%2 == 0 {
				pattern.WriteString(regexp.QuoteMeta(part))
			} else {
				pattern.WriteString("([^/]+)")
				p.params = append(p.params, part)
			}
		}
		if p.match, err = regexp.Compile("^" + pattern.String() + "$"); err != nil {
			return nil, err
		}
		d.paths = append(d.paths, p)
	}
	// Paths without parameters go before those with (OpenAPI 3.1, 4.8.8.2).
	slices.SortFunc(d.paths, func(a, b path) int { return len(a.params) - len(b.params) })
	return d, nil
}

// ErrUndocumented says that the document has no such operation.
var ErrUndocumented = errors.New("the document has no such operation")

// Find finds the operation of a request, by its method and its path as it is escaped.
func (d *Document) Find(method, urlPath string) (route *routers.Route, params map[string]string, err error) {
	// Two partners' operations are named in any case; one's may have [] behind their name, in either spelling, and a slash at the end.
	loose := strings.TrimSuffix(strings.ReplaceAll(urlPath, "%5B%5D", "[]"), "/")
	for _, p := range d.paths {
		found := p.match.FindStringSubmatch(urlPath)
		anyCase := slices.ContainsFunc([]string{"/FinancialTransactionsBatchCreate", "/financial-transaction-batches", "/CustomerBuyingReport"}, func(part string) bool {
			return strings.Contains(p.name, part)
		})
		if found == nil && anyCase && strings.EqualFold(p.name, loose) {
			found = []string{urlPath}
		}
		if found == nil {
			continue
		}
		op := p.item.GetOperation(method)
		if op == nil {
			return nil, nil, fmt.Errorf("%w: %s %s", ErrUndocumented, method, p.name)
		}
		params = map[string]string{}
		for i, name := range p.params {
			if params[name], err = url.PathUnescape(found[i+1]); err != nil {
				return nil, nil, err
			}
		}
		return &routers.Route{Spec: d.Spec, Path: p.name, PathItem: p.item, Method: method, Operation: op}, params, nil
	}
	return nil, nil, fmt.Errorf("%w: %s", ErrUndocumented, urlPath)
}

// Response checks an answer. [ErrUndocumented]: the document does not know what was asked.
func (d *Document) Response(req *http.Request, res *http.Response, body []byte) error {
	input, err := d.input(req, nil)
	if err != nil {
		return err
	}
	return openapi3filter.ValidateResponse(req.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: res.StatusCode, Header: res.Header, Body: io.NopCloser(bytes.NewReader(body)), Options: input.Options,
	})
}

// Request checks a request.
func (d *Document) Request(req *http.Request, body []byte) error {
	input, err := d.input(req, body)
	if err != nil {
		return err
	}
	return openapi3filter.ValidateRequest(req.Context(), input)
}

func (d *Document) input(req *http.Request, body []byte) (*openapi3filter.RequestValidationInput, error) {
	route, params, err := d.Find(req.Method, req.URL.EscapedPath())
	if err != nil {
		return nil, err
	}
	again := req.Clone(req.Context())
	again.Body = io.NopCloser(bytes.NewReader(body))
	return &openapi3filter.RequestValidationInput{
		Request: again, PathParams: params, Route: route,
		Options: &openapi3filter.Options{IncludeResponseStatus: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	}, nil
}
