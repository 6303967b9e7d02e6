package helloid

import (
	"fmt"
	"strings"
	"time"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/schemas"
)

// changed is an element of the answer to a POST, current one of the answer to a GET: the same data, and the partner spells the members
// differently in the two.
type (
	changed struct {
		UserName       string
		ProductSKU     string
		TimeOfApproval *string
		Source         *string
		Quantity       int64
	}
	current struct {
		UserName       string  `json:"username"`
		ProductSKU     string  `json:"productSku"`
		TimeOfApproval *string `json:"timeOfApproval"`
		Source         *string `json:"source"`
		Quantity       int64   `json:"quantity"`
	}
)

// errorResult is the form of everything that is not a 200. Of its members only resultMsg is backed by evidence: it is the first that the
// vendor's own connectors look for.
type errorResult struct {
	ResultCode int      `json:"resultCode"`
	ResultMsg  string   `json:"resultMsg"`
	Errors     []defect `json:"errors,omitempty"`
}

type defect struct {
	Index   int    `json:"index"` // of the record in the request, from 0
	Field   string `json:"field"` // as the contract spells it; empty for the whole record
	Message string `json:"message"`
}

// formatReceipt is the answer to a POST whose records are all applied: one element for each, in the order of the request.
func formatReceipt(receipt *ingest.Receipt) []byte {
	list := make([]changed, len(receipt.Results))
	for i := range receipt.Results {
		if p, ok := receipt.Results[i].Processed.(*schemas.OwnershipResult); ok {
			list[i] = changed{p.UserName, p.ProductSKU, formatDate(p.TimeOfApproval), p.Source, p.Quantity}
		}
	}
	return ingest.EncodeJSON(list)
}

// formatOwners is the answer to a GET.
func formatOwners(owners []schemas.OwnershipReport) []byte {
	list := make([]current, len(owners))
	for i, o := range owners {
		list[i] = current{o.UserName, o.ProductSKU, formatDate(o.TimeOfApproval), o.Source, o.Quantity}
	}
	return ingest.EncodeJSON(list)
}

func formatDate(t *time.Time) *string {
	if t == nil {
		return nil
	}
	s := t.Format(dateLayout)
	return &s
}

// defectsOf lists every defect of a request in the partner's words; nil when there is none.
func defectsOf(items []ingest.Item) []defect {
	var list []defect
	for i := range items {
		for _, reason := range items[i].Defects {
			if len(list) == maxDefects {
				return append(list, defect{i, "", "There are more defects, which are not listed"})
			}
			list = append(list, describe(i, &reason, items[i].Format))
		}
	}
	return list
}

// maxDefects bounds an answer: 10,000 records may have some defects each.
const maxDefects = 10_000

// describe says in the partner's words what is wrong with a record.
func describe(index int, r *schemas.Reason, format string) defect {
	d := defect{Index: index, Field: spelling(r.Field, format)}
	subject := d.Field
	if subject == "" {
		subject = "The record"
	}
	switch {
	case r.Code == schemas.CodeMissing:
		d.Message = subject + " is required"
	case r.Code == schemas.CodeInternalError:
		d.Message = "The record was accepted, but could not be processed"
	default:
		// A message begins with our name of the member, where it comes from the check.
		d.Message = strings.TrimSuffix(subject+" "+strings.TrimPrefix(r.Message, r.Field+" "), ".")
	}
	return d
}

// spelling is the partner's name of a member.
func spelling(field, format string) string {
	for i := range names {
		if names[i].field != field {
			continue
		}
		if format == schemas.FormatCSV && names[i].csv != "" {
			return names[i].csv
		}
		return names[i].json
	}
	return field
}

// failed lists the records of an accepted request that could not be processed.
func failed(receipt *ingest.Receipt) []defect {
	var list []defect
	for i := range receipt.Results {
		if r := &receipt.Results[i]; r.Processed == nil && len(r.Reasons) > 0 {
			for j := range r.Reasons {
				list = append(list, describe(r.Index, &r.Reasons[j], ""))
			}
		}
	}
	return list
}

func formatError(code int, message string, errors []defect) []byte {
	return ingest.EncodeJSON(errorResult{code, message, errors})
}

// pendingMessage is told to a caller whose records do not all have their outcome in time.
func pendingMessage(receipt *ingest.Receipt) string {
	return fmt.Sprintf("The request was accepted and is being processed; do not send it again. Its outcomes will be found at %s", ingest.JobURL(receipt.Number))
}
