// The program whose variables read-variable.ts reads out of an image: counts lines of its input.
#include <stdio.h>

struct visitor {
  unsigned long visits;
  char name[32];
};

struct visitor last_visitor;

int main(void) {
  while (fgets(last_visitor.name, sizeof last_visitor.name, stdin)) {
    printf("%lu\n", ++last_visitor.visits);
    fflush(stdout);
  }
  return 0;
}
