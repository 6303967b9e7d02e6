package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/counterfoil/counterfoil/test/openapicheck"
)

var document = sync.OnceValues(openapicheck.Load)

// maxDescribed bounds the bodies that are held against the document: the validator takes its time with those that try the limits.
const maxDescribed = 256 << 10

// described holds an exchange against the OpenAPI document: every answer, and the requests to our own API of which every item was good. What
// partners send is taken more leniently than a document would describe.
func described(res *http.Response, request, response []byte) string {
	d, err := document()
	if err != nil {
		return err.Error()
	}
	if len(request) > maxDescribed || len(response) > maxDescribed {
		return ""
	}
	req := res.Request
	switch err := d.Response(req, res, response); {
	case errors.Is(err, openapicheck.ErrUndocumented):
		if res.StatusCode < 300 && !strings.HasPrefix(req.URL.Path, "/crmapi/") { // whose answers are 200 whatever they say
			return fmt.Sprintf("answered %d to what is not documented: %v", res.StatusCode, err)
		}
		return ""
	case err != nil:
		return fmt.Sprintf("the answer is not what the document says: %v", err)
	}
	if req.Method == http.MethodPost && strings.HasPrefix(req.URL.Path, "/v1/") && bytes.Contains(response, []byte(`"unprocessed":0`)) {
		if err := d.Request(req, request); err != nil {
			return fmt.Sprintf("the request is good and not what the document says: %v", err)
		}
	}
	return ""
}
