package caliq

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/ingest/lenient"
)

const (
	root       = "CustomerBuyingReportParams"
	xsd        = "http://www.w3.org/2001/XMLSchema"
	xsi        = "http://www.w3.org/2001/XMLSchema-instance"
	whiteSpace = " \t\r\n"
)

// readXML reads a body as XmlSerializer does: the elements of [root] in any order, names exactly, no namespace; xsi:nil is null, and what is
// not known is ignored. A document type is refused. Of two elements with one name the last one counts, as in JSON.
func readXML(text string) (values, error) {
	var v values
	d := xml.NewDecoder(strings.NewReader(text))
	d.CharsetReader = func(_ string, in io.Reader) (io.Reader, error) { return in, nil } // whatever it was, it is UTF-8 now
	var (
		depth, member int  // member: place in names of the element at depth 2; -1: none of them
		begun         bool // the root was there
		content       strings.Builder
	)
	for {
		token, err := d.Token()
		switch {
		case err == io.EOF && begun:
			return v, nil
		case err == io.EOF && strings.Trim(text, whiteSpace) == "":
			return v, errNothing
		case err == io.EOF:
			return v, errors.New("there is no element")
		case err != nil:
			return v, xmlProblem(err)
		}
		switch t := token.(type) {
		case xml.Directive:
			return v, errors.New("a document type is not allowed")
		case xml.StartElement:
			switch depth++; {
			case depth > ingest.MaxDepth:
				return v, fmt.Errorf("nested deeper than %d levels", ingest.MaxDepth)
			case depth == 1 && (begun || t.Name.Space != "" || t.Name.Local != root):
				return v, errors.New("one element " + root + " without a namespace is expected")
			case depth == 1:
				begun = true
			case depth == 2:
				member = indexOf(t.Name)
				content.Reset()
				if member >= 0 {
					v[member] = lenient.Value{Kind: lenient.String}
					if isNil(t.Attr) {
						v[member].Kind = lenient.Null
					}
				}
			case member >= 0: // an element in a text
				v[member].Kind = lenient.Object
			}
		case xml.CharData:
			switch {
			case depth == 0 && strings.Trim(string(t), whiteSpace) != "":
				return v, errors.New("there is text outside of the element")
			case depth == 2:
				content.Write(t)
			}
		case xml.EndElement:
			if depth == 2 && member >= 0 && v[member].Kind == lenient.String {
				v[member].Text = content.String()
			}
			depth--
		}
	}
}

func indexOf(name xml.Name) int {
	for i := range names {
		if name.Space == "" && name.Local == names[i] {
			return i
		}
	}
	return -1
}

func isNil(attributes []xml.Attr) bool {
	for _, a := range attributes {
		if a.Name.Space == xsi && a.Name.Local == "nil" {
			return a.Value == "true" || a.Value == "1"
		}
	}
	return false
}

// xmlProblem says where and why a text is not XML.
func xmlProblem(err error) error {
	var syntax *xml.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("%s on line %d", syntax.Msg, syntax.Line)
	}
	return errors.New("it is not XML 1.0")
}
