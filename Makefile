# On a fresh clone, `make train` installs and trains, `make test` installs and passes the tests; see README.md.
.PHONY: help train test

help:
	@echo "make train    install what is missing, then train IQL with rational activations for a short while"
	@echo "make test     install what is missing, then run the tests"

train test:
	@sh scripts/setup/make.sh $@
